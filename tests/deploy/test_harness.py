import numpy as np
import pytest

from calib_data.blocks import as_blocks
from calib_data.features import Features
from calib_data.progress import SilentProgress
from calib_data.tasks import QuestionExample, TextExample, get_task
from deploy.engine.profiles import bucket_profiles
from deploy.engine.session import Backend, Precision, SessionInfo
from deploy.errors import EvaluationError
from deploy.evaluation.harness import EvaluationSet, evaluate, run_rows
from deploy.evaluation.journal import Journal

PAD = 7


class EchoSession:
    """Answers with what it was fed, so that a mixed-up row or a stray pad shows."""

    info = SessionInfo(Backend.ONNXRUNTIME, "fp32", simulated=False, device="test")
    input_names = ("input_ids", "attention_mask")

    def __init__(self, buckets, max_batch, per_token):
        self.profiles = bucket_profiles(buckets, max_batch)
        self.per_token = per_token
        self.shapes = []

    def run(self, inputs, out=None):
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        assert ((ids == PAD) == (mask == 0)).all()
        self.shapes.append(ids.shape)
        if self.per_token:
            return {"start_logits": ids.astype(np.float32), "end_logits": -ids.astype(np.float32)}
        # The label is the parity of the first token.
        first = ids[:, 0].astype(np.float32)
        return {"logits": np.stack([1 - first % 2, first % 2], axis=1)}


def rows(lengths):
    ids = tuple(np.full(length, 100 + index) for index, length in enumerate(lengths))
    return Features(ids, tuple(np.zeros_like(r) for r in ids), np.arange(len(ids)), ())


def classification(lengths):
    examples = tuple(TextExample(str(i), ("x",), i % 2) for i in range(len(lengths)))
    return EvaluationSet(get_task("sst2"), examples, as_blocks(rows(lengths)), PAD)


def test_every_row_comes_back_in_its_place():
    lengths = [30, 3, 17, 8, 9, 31, 16, 1, 5]
    session = EchoSession((8, 16, 32), max_batch=2, per_token=False)
    run = evaluate(session, Precision.FP32, None, classification(lengths), SilentProgress())
    assert run.metrics == {"accuracy": 1.0}
    assert run.n == len(lengths)
    # Sorted by length, each in its smallest bucket, never more than max_batch.
    assert session.shapes == [(2, 8), (2, 8), (2, 16), (2, 32), (1, 32)]


def test_padding_is_cut_off_token_outputs():
    task = get_task("squad")
    lengths = [5, 12, 2]
    examples = tuple(QuestionExample(str(i), "q", "c", ("c",), (0,)) for i in range(3))
    data = EvaluationSet(task, examples, as_blocks(rows(lengths)), PAD)
    outputs = run_rows(EchoSession((16,), 4, per_token=True), data, SilentProgress(), "test").values
    for index, length in enumerate(lengths):
        np.testing.assert_array_equal(outputs["start_logits"][index], [100 + index] * length)
        np.testing.assert_array_equal(outputs["end_logits"][index], [-100 - index] * length)


def test_row_longer_than_the_last_bucket_is_refused():
    session = EchoSession((8,), 2, per_token=False)
    with pytest.raises(Exception, match="9 tokens, the largest bucket 8"):
        evaluate(session, Precision.FP32, None, classification([9]), SilentProgress())


@pytest.mark.parametrize("max_batch", [1, 3])
def test_blocks_and_a_journal_change_no_output(max_batch, tmp_path):
    generator = np.random.default_rng(0)
    whole = rows(generator.integers(1, 30, size=23).tolist())
    blocks = tuple(
        block
        for part in (slice(0, 9), slice(9, 18), slice(18, 23))
        for block in as_blocks(
            Features(
                whole.input_ids[part], whole.token_type_ids[part], whole.example_index[part], ()
            )
        )
    )
    examples = tuple(TextExample(str(i), ("x",), i % 2) for i in range(23))
    one, many = (
        EvaluationSet(get_task("sst2"), examples, b, PAD) for b in (as_blocks(whole), blocks)
    )
    assert [ids.tolist() for ids in many.features.input_ids] == [
        ids.tolist() for ids in whole.input_ids
    ]

    def outputs(data, journal=None):
        session = EchoSession((8, 16, 32), max_batch, per_token=False)
        found = run_rows(session, data, SilentProgress(), "", journal).values["logits"]
        return found, len(session.shapes)

    expected, _ = outputs(one)
    np.testing.assert_array_equal(outputs(many)[0], expected)
    for written in (False, True):
        with Journal(tmp_path / "journal", {}) as journal:
            found, batches = outputs(many, journal)
        np.testing.assert_array_equal(found, expected)
        assert (batches == 0) == written


def test_outputs_that_are_no_numbers_name_precision_backend_and_rows():
    class Overflowing(EchoSession):
        def run(self, inputs, out=None):
            logits = super().run(inputs)["logits"]
            wide = (inputs["input_ids"][:, 0] - 100) % 3 == 0
            return {"logits": np.where(wide[:, None], np.nan, logits)}

    session = Overflowing((8,), 2, per_token=False)
    with pytest.raises(EvaluationError) as caught:
        evaluate(session, Precision.FP16, None, classification([3] * 30), SilentProgress())
    assert caught.value.message == (
        "fp16 on onnxruntime: output 'logits', row 0 holds nan, and 9 more of 30 are not finite: "
        "3, 6, 9, 12, 15, …"
    )
    assert "another precision" in caught.value.remedy
