from __future__ import annotations

from itertools import groupby

import numpy as np
import pytest
from bench_fakes import FakeClock, contestant, probe_of

from calib_data.progress import SilentProgress
from deploy.bench.crossover import crossover
from deploy.bench.latency import ROUNDS
from deploy.bench.sweep import Effort, schedule, sweep
from deploy.bench.tokens import token_sets
from deploy.engine.profiles import Shape

SHAPES = (Shape(1, 64), Shape(8, 64), Shape(1, 128))
QUICK = Effort(iterations=20, seconds=0.0, warmup=0.0)


def run(probes, shapes=SHAPES[:1], effort=QUICK, make_inputs=lambda shape: ()):
    return sweep(probes, shapes, make_inputs, effort, 0, SilentProgress())


def test_in_every_round_each_contestant_has_one_turn():
    blocks = schedule(SHAPES, probes=4, seed=0)
    rounds = [
        [block.probe for block in each]
        for _, each in groupby(blocks, key=lambda block: (block.shape, block.round))
    ]
    assert len(rounds) == ROUNDS * len(SHAPES)
    assert all(sorted(order) == [0, 1, 2, 3] for order in rounds)
    # Who goes first, whose clock or cache may be different, changes; and is repeatable.
    assert {order[0] for order in rounds} == {0, 1, 2, 3}
    assert blocks == schedule(SHAPES, probes=4, seed=0)
    assert blocks != schedule(SHAPES, probes=4, seed=1)


@pytest.mark.parametrize(
    ("effort", "calls"),
    [
        (Effort(iterations=100, seconds=0.0, warmup=0.0), 100),
        (Effort(iterations=1, seconds=0.0, warmup=0.0), ROUNDS),  # one a round at least
        (Effort(iterations=1, seconds=5.0, warmup=0.0), 500),
        (Effort(iterations=1000, seconds=5.0, warmup=2.0), 1000),
    ],
)
def test_both_iterations_and_seconds_are_lower_limits(effort, calls):
    clock = FakeClock()
    made = []

    def call(_):
        made.append(clock.now)
        clock.work(1 / 128)  # exact in binary, and above 0.01 s / 2

    (found,) = run([probe_of(contestant("fp16"), clock.timer(), call)], effort=effort)
    assert found.latency.iterations >= calls
    assert found.latency.iterations * found.latency.mean_ms / 1e3 >= effort.seconds
    # Nothing is measured far beyond what was asked for: a call a round at most.
    assert found.latency.iterations <= max(effort.iterations, effort.seconds * 128) + 2 * ROUNDS
    warming = (
        len(made) - found.latency.iterations - ROUNDS
    )  # each block has a call that is not timed
    assert warming >= max(3, effort.warmup * 128)


def test_drift_hits_all_contestants_alike():
    """The clock slows down by 2.5 while two contestants run whose true ratio is 1.25."""
    clock = FakeClock(slowness=lambda now: 1.0 + now)
    probes = [
        probe_of(contestant("fp16"), clock.timer(), lambda _: clock.work(0.0050)),
        probe_of(contestant("fp8"), clock.timer(), lambda _: clock.work(0.0040)),
    ]
    found = run(probes, effort=Effort(iterations=100, seconds=0.0, warmup=0.0))
    assert clock.now > 1.5
    assert not any(each.latency.trusted for each in found)
    (compared,) = crossover(found)
    fastest = compared.entries[0]
    assert (fastest.contestant.precision, fastest.speedups[0].verdict) == ("fp8", "faster")
    # Within a round, the clock slows by a tenth; shuffling lets neither gain by that.
    assert fastest.speedups[0].ratio == pytest.approx(1.25, rel=0.05)
    low, high = fastest.speedups[0].interval
    assert low > 1.25 / 1.15
    assert high < 1.25 * 1.15


def test_all_are_fed_the_same_inputs():
    fed: dict[str, list[object]] = {"fp16": [], "fp8": []}
    clock = FakeClock()

    def feed(precision):
        def call(inputs):
            fed[precision].append(inputs)
            clock.work(1.0)

        return probe_of(contestant(precision), clock.timer(), call)

    run([feed("fp16"), feed("fp8")], SHAPES, make_inputs=lambda shape: token_sets(shape, 100, 0))
    seen = {precision: list(dict.fromkeys(map(id, inputs))) for precision, inputs in fed.items()}
    assert seen["fp16"] == seen["fp8"]
    assert len(seen["fp16"]) == len(SHAPES)


def test_results_are_ordered_whatever_was_measured_first():
    clock = FakeClock()
    order = []

    def make_inputs(shape):
        order.append(shape)
        return ()

    probes = [probe_of(contestant(p), clock.timer(), lambda _: clock.work(1)) for p in ("b", "a")]
    found = run(probes, SHAPES, make_inputs=make_inputs)
    assert order[0] == Shape(8, 64)  # what takes the most memory
    assert [(e.shape, e.probe.contestant.precision) for e in found] == [
        (shape, precision) for shape in SHAPES for precision in ("b", "a")
    ]


def test_token_ids_are_valid_random_and_repeatable():
    sets = token_sets(Shape(3, 40), vocabulary=50, seed=0)
    ids = [each["input_ids"] for each in sets]
    assert len(ids) > 1
    assert not np.array_equal(ids[0], ids[1])
    for tokens in sets:
        assert {(array.shape, array.dtype.name) for array in tokens.values()} == {
            ((3, 40), "int64")
        }
        assert tokens["attention_mask"].all()
        assert not tokens["token_type_ids"].any()
    assert np.min(ids) >= 0
    assert np.max(ids) < 50
    assert len(np.unique(ids)) == 50  # 480 draws leave one out with a probability of 0.3 %
    again = token_sets(Shape(3, 40), vocabulary=50, seed=0)
    assert all(np.array_equal(a["input_ids"], b) for a, b in zip(again, ids, strict=True))
