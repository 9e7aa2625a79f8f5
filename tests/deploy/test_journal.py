import numpy as np
import pytest

from deploy.errors import BuildFolderError
from deploy.evaluation.journal import Answer, Journal

IDENTITY = {"files": {"onnx/model.fp8.onnx": "abc"}, "session": {"backend": "onnxruntime"}}


def batch(number):
    ids = np.arange(6, dtype=np.int64).reshape(2, 3) + number
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def respond(inputs):
    ids = inputs["input_ids"].astype(np.float32)
    # A view that is not contiguous, as the outputs of a padded batch are.
    return Answer({"start_logits": ids[:, :2] / 3, "end_logits": -ids.T}, seconds=0.25)


def never(inputs):
    raise AssertionError("run again")


def write(path, count, identity=IDENTITY):
    with Journal(path, identity) as journal:
        return [journal.answer(batch(number), respond) for number in range(count)]


def known(path, identity=IDENTITY):
    """How many of four batches need no run."""
    run = []
    with Journal(path, identity) as journal:
        for number in range(4):
            journal.answer(batch(number), lambda inputs: run.append(inputs) or respond(inputs))
    return 4 - len(run)


def test_an_answer_comes_back_bit_for_bit(tmp_path):
    first = write(tmp_path / "j", 3)
    with Journal(tmp_path / "j", IDENTITY) as journal:
        again = [journal.answer(batch(number), never) for number in range(3)]
    for before, after in zip(first, again, strict=True):
        assert after.seconds == before.seconds
        assert after.outputs.keys() == before.outputs.keys()
        for name, values in before.outputs.items():
            assert after.outputs[name].dtype == values.dtype
            np.testing.assert_array_equal(after.outputs[name], values)


@pytest.mark.parametrize(
    "inputs",
    [
        {**batch(0), "input_ids": batch(0)["input_ids"] + 1},
        {**batch(0), "attention_mask": np.zeros((2, 3), np.int64)},
        {name: values.astype(np.int32) for name, values in batch(0).items()},
        {name: values.reshape(3, 2) for name, values in batch(0).items()},
        {name: values[:1] for name, values in batch(0).items()},
        {"input_ids": batch(0)["input_ids"]},
    ],
    ids=["ids", "mask", "type", "shape", "rows", "names"],
)
def test_another_batch_is_run(inputs, tmp_path):
    write(tmp_path / "j", 1)
    with Journal(tmp_path / "j", IDENTITY) as journal:
        answer = journal.answer(inputs, lambda _: Answer({}, seconds=7.0))
    assert answer.seconds == 7.0


def test_of_another_model_nothing_is_taken_and_nothing_left(tmp_path):
    other = {**IDENTITY, "files": {"onnx/model.fp8.onnx": "abd"}}
    write(tmp_path / "j", 3)
    assert known(tmp_path / "j", other) == 0
    assert known(tmp_path / "j") == 0


def test_what_was_not_written_whole_is_made_again(tmp_path):
    """Cut at every byte: a kill may come anywhere, and the next process must go on from there."""
    path = tmp_path / "j"
    write(path, 2)
    two = path.read_bytes()
    write(path, 3)
    three = path.read_bytes()
    assert three.startswith(two)
    for size in range(len(three)):
        path.write_bytes(three[:size])
        complete = known(path)
        assert complete == 2 if size >= len(two) else complete < 2, size
        assert known(path) == 4, size


@pytest.mark.parametrize("position", [0, 20, 45, 60, 100, 150])
def test_damage_costs_no_more_than_what_follows_it(position, tmp_path):
    path = tmp_path / "j"
    write(path, 4)
    whole = bytearray(path.read_bytes())
    whole[position] ^= 0x40
    path.write_bytes(bytes(whole))
    answers = write(path, 4)
    for number, answer in enumerate(answers):
        expected = respond(batch(number)).outputs
        for name, values in answer.outputs.items():
            np.testing.assert_array_equal(values, expected[name])
    assert known(path) == 4


def test_a_huge_length_is_no_reason_to_run_out_of_memory(tmp_path):
    path = tmp_path / "j"
    write(path, 1)
    path.write_bytes(path.read_bytes()[:40] + b"\xff" * 8 + b"\0" * 200)
    assert known(path) == 0


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(BuildFolderError, match="nowhere") as caught:
        Journal(tmp_path / "nowhere" / "j", IDENTITY)
    assert "build folder" in caught.value.remedy
