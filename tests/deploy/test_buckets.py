import numpy as np
import pytest

from deploy.engine.buckets import (
    cut,
    input_shape,
    pad_into,
    per_token,
    pick_profile,
    write_out,
)
from deploy.engine.profiles import Profile, Shape, bucket_profiles
from deploy.errors import BackendError

NAMES = ("input_ids", "attention_mask")
PROFILES = bucket_profiles((8, 16), max_batch=4)


def batch(rows=2, tokens=5, dtype=np.int64, **replaced):
    return {name: np.ones((rows, tokens), dtype) for name in NAMES} | replaced


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8, np.bool_])
def test_any_integer_is_taken_and_other_inputs_are_ignored(dtype):
    inputs = batch(dtype=dtype, position_ids=np.zeros(3, np.float32))
    assert input_shape(inputs, NAMES) == Shape(2, 5)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (np.ones((2, 5), np.float32), "'attention_mask' is float32, not integer"),
        ([[1, 1]], "'attention_mask' is a list, not a numpy array"),
        (np.ones(5, np.int64), r"'attention_mask' has the shape \(5,\)"),
        (np.ones((1, 2, 5), np.int64), r"has the shape \(1, 2, 5\)"),
        (np.ones((2, 6), np.int64), r"\(2, 6\), 'input_ids' \(2, 5\)"),
        (np.ones((0, 5), np.int64), r"\(0, 5\)"),
    ],
)
def test_input_that_cannot_be_a_batch_of_tokens(wrong, says):
    with pytest.raises(BackendError, match=says):
        input_shape(batch(attention_mask=wrong), NAMES)


def test_missing_input_says_what_there_is():
    with pytest.raises(
        BackendError, match="'attention_mask' is missing: the batch has input_ids, x"
    ):
        input_shape({"input_ids": np.ones((1, 1), int), "x": np.ones((1, 1), int)}, NAMES)


@pytest.mark.parametrize(
    ("shape", "sequence"), [((1, 1), 8), ((4, 8), 8), ((1, 9), 16), ((4, 16), 16)]
)
def test_smallest_bucket_that_holds_the_batch(shape, sequence):
    assert PROFILES[pick_profile(PROFILES, Shape(*shape))].max.sequence == sequence


def test_a_longer_bucket_is_taken_where_the_shorter_has_too_few_rows():
    profiles = (
        Profile(Shape(1, 8), Shape(1, 8), Shape(2, 8)),
        Profile(Shape(1, 16), Shape(1, 16), Shape(4, 16)),
    )
    assert pick_profile(profiles, Shape(3, 8)) == 1


@pytest.mark.parametrize("shape", [(5, 8), (1, 17)])
def test_beyond_every_profile(shape):
    with pytest.raises(BackendError, match=r"fits no profile.*4 x 8, 4 x 16") as error:
        pick_profile(PROFILES, Shape(*shape))
    assert "--max-batch" in error.value.remedy
    assert "--buckets" in error.value.remedy


def test_padding_fills_rows_and_columns_whatever_was_there_and_casts():
    target = np.full((3, 4), 99, np.int32)
    pad_into(target, np.array([[1, 2]], np.uint8), 7)
    assert target.tolist() == [[1, 2, 7, 7], [7, 7, 7, 7], [7, 7, 7, 7]]


def test_only_an_output_with_the_sequence_as_axis_is_cut_in_columns():
    tokens = (-1, -1)
    assert per_token((-1, -1), tokens)
    assert per_token(("batch", "sequence", 768), ("batch", "sequence"))
    assert not per_token((-1, 2), tokens)
    assert not per_token((-1,), tokens)
    values = np.arange(32).reshape(4, 8)
    assert cut(values, Shape(2, 3), by_token=True).shape == (2, 3)
    assert cut(values, Shape(2, 3), by_token=False).shape == (2, 8)


def test_output_array_is_written_and_not_broadcast_into():
    target = np.zeros((2, 2), np.float16)
    assert write_out("logits", np.ones((2, 2), np.float32), target) is target
    assert (target == 1).all()
    with pytest.raises(BackendError, match=r"out\['logits'\] has the shape \(2, 2\).*\(1, 2\)"):
        write_out("logits", np.ones((1, 2), np.float32), target)
