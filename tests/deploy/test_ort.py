import numpy as np
import pytest
from checkpoints import VOCABULARY, save_random_checkpoint

from calib_data.tasks import Head, get_task
from deploy.engine.ort import OrtSession
from deploy.engine.profiles import any_length, bucket_profiles
from deploy.engine.session import Precision
from deploy.errors import BackendError
from export.checkpoint import load_checkpoint
from export.onnx_export import export_onnx
from export.onnx_file import read_onnx, write_onnx
from export.precision import FloatType, cast_floats
from export.verify import relative_error

PROFILES = bucket_profiles((8, 16), max_batch=4)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = save_random_checkpoint(tmp_path_factory.mktemp("ort"))
    model = export_onnx(
        load_checkpoint(str(folder), get_task("sst2")), Head.SEQUENCE_CLASSIFICATION
    )
    write_onnx(model, folder / "fp32.onnx")
    model = read_onnx(folder / "fp32.onnx")
    cast_floats(model, FloatType.FP16)
    write_onnx(model, folder / "fp16.onnx")
    return folder


def tokens(batch, sequence):
    ids = np.random.default_rng(0).integers(4, VOCABULARY, (batch, sequence))
    return {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "token_type_ids": np.zeros_like(ids),
    }


def test_says_what_its_numbers_are_worth(models):
    fp32 = OrtSession(models / "fp32.onnx", Precision.FP32, PROFILES)
    fp16 = OrtSession(models / "fp16.onnx", Precision.FP16, PROFILES)
    assert (fp32.info.arithmetic, fp32.info.simulated) == ("fp32", False)
    assert (fp16.info.arithmetic, fp16.info.simulated) == ("fp32", True)


def test_fp16_model_runs_with_its_rounded_weights(models):
    inputs = tokens(3, 16)
    fp32, fp16 = (
        OrtSession(models / f"{p.value}.onnx", p, PROFILES).run(inputs)["logits"]
        for p in (Precision.FP32, Precision.FP16)
    )
    assert fp16.dtype == np.float32
    # FP16 keeps 11 bits: weights move by up to 5e-4, but not by nothing.
    assert 1e-6 < relative_error(fp16, fp32) < 5e-3


@pytest.mark.parametrize("shape", [(5, 8), (1, 17)])
def test_shape_beyond_the_profiles_is_refused_as_an_engine_would(models, shape):
    session = OrtSession(models / "fp32.onnx", Precision.FP32, PROFILES)
    with pytest.raises(BackendError, match="fits no profile"):
        session.run(tokens(*shape))


@pytest.mark.parametrize("pad_token_id", [0, 1])
def test_sequence_is_padded_to_its_bucket(models, pad_token_id):
    session = OrtSession(models / "fp32.onnx", Precision.FP32, PROFILES, pad_token_id)
    inputs = tokens(3, 9)
    by_hand = {name: np.pad(values, ((0, 0), (0, 7))) for name, values in inputs.items()}
    by_hand["input_ids"][:, 9:] = pad_token_id
    logits = session.run(inputs)["logits"]
    assert logits.shape == (3, 2)
    np.testing.assert_array_equal(logits, session.run(by_hand)["logits"])


def test_padding_changes_no_answer_and_is_cut_off_token_outputs(tmp_path):
    folder = save_random_checkpoint(tmp_path, question_answering=True)
    model = export_onnx(load_checkpoint(str(folder), get_task("squad")), Head.QUESTION_ANSWERING)
    write_onnx(model, folder / "fp32.onnx")
    wide, exact = (
        OrtSession(folder / "fp32.onnx", Precision.FP32, bucket_profiles((bucket,), max_batch=4))
        for bucket in (16, 9)
    )
    inputs = tokens(3, 9)
    for name, values in wide.run(inputs).items():
        assert values.shape == (3, 9)
        # A masked token weighs 0 in every softmax; FP32 sums in another order.
        np.testing.assert_allclose(values, exact.run(inputs)[name], rtol=0, atol=1e-5)


def test_integers_are_cast_and_outputs_written_where_asked(models):
    session = OrtSession(models / "fp32.onnx", Precision.FP32, PROFILES)
    inputs = tokens(2, 8)
    out = {"logits": np.empty((2, 2), np.float32)}
    narrow = {name: values.astype(np.int32) for name, values in inputs.items()}
    assert session.run(narrow, out)["logits"] is out["logits"]
    np.testing.assert_array_equal(out["logits"], session.run(inputs)["logits"])


def test_damaged_model(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"garbage")
    with pytest.raises(BackendError, match="onnxruntime refuses"):
        OrtSession(tmp_path / "x.onnx", Precision.FP32, PROFILES)


def test_a_profile_of_any_length_is_not_padded(models):
    padded = OrtSession(models / "fp32.onnx", Precision.FP32, PROFILES)
    free = OrtSession(models / "fp32.onnx", Precision.FP32, any_length(PROFILES))
    assert [profile.max for profile in free.profiles] == [profile.max for profile in PROFILES]
    inputs = tokens(3, 9)
    exact = OrtSession(models / "fp32.onnx", Precision.FP32, bucket_profiles((9,), 4))
    np.testing.assert_array_equal(free.run(inputs)["logits"], exact.run(inputs)["logits"])
    # A masked token weighs 0 in every softmax; FP32 sums in another order.
    expected = padded.run(inputs)["logits"]
    np.testing.assert_allclose(free.run(inputs)["logits"], expected, rtol=0, atol=1e-5)
    with pytest.raises(BackendError, match="fits no profile"):
        free.run(tokens(1, 17))
