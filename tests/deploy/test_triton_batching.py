"""Which batches are preferred, and how long a request waits, by what was measured."""

from __future__ import annotations

import pytest

from deploy.triton.batching import choose_batching


def row(sequence, batch, throughput, p50_ms=1.0, **changes):
    plain = {"precision": "fp8", "backend": "tensorrt", "sequence": sequence, "batch": batch}
    plain |= {"throughput_per_s": throughput, "p50_ms": p50_ms, "trusted": True}
    plain |= {"simulated": False, "host_copies": True, "cuda_graph": True}
    return {**plain, **changes}


def choose(rows, max_batch=32, **options):
    return choose_batching(rows, "fp8", "tensorrt", max_batch, **options)


def test_a_batch_is_preferred_while_throughput_grows_by_a_tenth():
    rows = [row(128, 1, 1000), row(128, 4, 3000), row(128, 8, 3200), row(128, 32, 3301)]
    # 8 serves 7 % more than 4; 32 serves 10 % more than 4, the last that was kept.
    assert choose(rows).preferred == (4, 32)
    assert choose(rows[:3]).preferred == (4,)


def test_what_pays_in_any_bucket_is_preferred():
    rows = [row(64, 1, 1000), row(64, 8, 6000), row(64, 32, 9000)]
    rows += [row(384, 1, 500), row(384, 4, 900), row(384, 32, 910)]
    assert choose(rows).preferred == (4, 8, 32)


def test_a_batch_of_one_is_never_preferred_for_nothing_could_join_it():
    assert choose([row(128, 1, 1000)]).preferred == ()
    assert choose([row(128, 1, 1000), row(128, 8, 900)]).preferred == ()


def test_the_delay_is_half_of_the_least_p50_of_the_smallest_batch():
    rows = [row(64, 1, 1000, 0.6), row(64, 8, 2000, 4.0), row(384, 1, 900, 1.4)]
    assert choose(rows).max_queue_delay_us == 300
    assert choose(rows, max_queue_delay_us=0).max_queue_delay_us == 0
    assert choose(rows, max_queue_delay_us=1500).max_queue_delay_us == 1500


@pytest.mark.parametrize(
    "other",
    [
        {"precision": "int8"},
        {"backend": "torch"},
        {"backend": "tensorrt-rtx"},
        {"simulated": True},
        {"trusted": False},
    ],
    ids=str,
)
def test_what_says_nothing_of_the_served_model_is_left_out(other):
    rows = [row(128, 1, 1, **other), row(128, 8, 1000, **other)]
    assert choose(rows) == choose([])


def test_batches_beyond_the_largest_of_the_model_are_left_out():
    assert choose([row(128, 1, 1000), row(128, 8, 2000), row(128, 64, 9000)]).preferred == (8,)


def test_rows_with_copies_and_graphs_come_before_others_of_the_same_shape():
    without = {"host_copies": False}
    rows = [row(128, 1, 9000, **without), row(128, 1, 1000), row(128, 8, 1200)]
    assert choose(rows).preferred == (8,)
    assert choose(list(reversed(rows))).preferred == (8,)


@pytest.mark.parametrize(
    ("max_batch", "powers"), [(32, (2, 4, 8, 16, 32)), (12, (2, 4, 8, 12)), (2, (2,)), (1, ())]
)
def test_without_measurements_it_takes_powers_of_two_and_nobody_waits(max_batch, powers):
    chosen = choose([], max_batch)
    assert (chosen.preferred, chosen.max_queue_delay_us) == (powers, 0)
    assert "has not measured" in chosen.source
    assert choose([], max_batch, max_queue_delay_us=50).max_queue_delay_us == 50
