import numpy as np
import pytest

from calib_data.batching import Batch, bucketed_batches, collate
from calib_data.errors import UsageError
from calib_data.features import Features


def test_every_row_once_in_the_smallest_bucket_that_holds_it():
    lengths = np.random.default_rng(0).integers(1, 129, size=500)
    buckets = (32, 64, 128)
    batches = bucketed_batches(lengths, buckets, batch_size=16)

    rows = np.concatenate([batch.rows for batch in batches])
    assert sorted(rows) == list(range(500))
    for batch in batches:
        assert 1 <= len(batch.rows) <= 16
        for row in batch.rows:
            assert batch.length == min(b for b in buckets if b >= lengths[row])


def test_boundary_lengths_and_stable_order():
    batches = bucketed_batches(np.array([8, 4, 5, 4, 8]), (4, 8), batch_size=2)
    assert [(b.rows.tolist(), b.length) for b in batches] == [([1, 3], 4), ([2, 0], 8), ([4], 8)]


def test_row_beyond_the_buckets_says_what_would_hold_it():
    with pytest.raises(UsageError) as caught:
        bucketed_batches(np.array([3, 40, 7]), (16, 32), batch_size=4)
    assert "row 1 has 40 tokens" in caught.value.message
    assert "at least 40" in caught.value.remedy


def test_collate_pads_on_the_right():
    features = Features(
        input_ids=(np.array([5, 6, 7]), np.array([8, 9])),
        token_type_ids=(np.array([0, 1, 1]), np.array([1, 0])),
        example_index=np.arange(2),
        offsets=(),
    )
    arrays = collate(features, Batch(np.array([1, 0]), 4), pad_token_id=3)
    assert {name: array.tolist() for name, array in arrays.items()} == {
        "input_ids": [[8, 9, 3, 3], [5, 6, 7, 3]],
        "attention_mask": [[1, 1, 0, 0], [1, 1, 1, 0]],
        "token_type_ids": [[1, 0, 0, 0], [0, 1, 1, 0]],
    }
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.int64)}


def test_what_takes_shorter_rows_is_padded_to_the_longest_of_a_batch():
    lengths = np.array([8, 3, 5, 4, 2, 7])
    batches = bucketed_batches(lengths, (4, 8), batch_size=2, shortest=(3, 1))
    assert [(b.rows.tolist(), b.length) for b in batches] == [
        ([4, 1], 3),
        ([3], 4),
        ([2, 5], 7),
        ([0], 8),
    ]
    (short,) = bucketed_batches(np.array([1, 2]), (4, 8), batch_size=2, shortest=(3, 1))
    assert short.length == 3
