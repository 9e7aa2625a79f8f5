from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from checkpoints import ARCHITECTURES, VOCABULARY, save_random_checkpoint
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
)

from calib_data.tasks import Head, get_task
from export import onnx_file
from export.checkpoint import load_checkpoint
from export.errors import ExportError
from export.onnx_export import export_onnx
from export.onnx_file import check_onnx, read_onnx, write_onnx
from export.qdq import graph_sites
from export.sites import SiteKind, locate_sites
from export.verify import relative_error, verify_export

SST2, SQUAD = get_task("sst2"), get_task("squad")


def export(folder: Path, task=SST2) -> Path:
    path = folder / "model.fp32.onnx"
    write_onnx(export_onnx(load_checkpoint(str(folder), task), task.head), path)
    return path


def padded_tokens(shape, segments=True):
    rng = np.random.default_rng(shape[1])
    ids = rng.integers(4, VOCABULARY, shape)
    mask = np.ones(shape, np.int64)
    mask[-1, shape[1] // 2 :] = 0
    ids[mask == 0] = 0
    tokens = {"input_ids": ids, "attention_mask": mask}
    return tokens | {"token_type_ids": rng.integers(0, 2, shape)} if segments else tokens


def run(path: Path, tokens):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = {value.name for value in session.get_inputs()}
    return session.run(None, {name: value for name, value in tokens.items() if name in names})


@pytest.fixture(scope="module", params=ARCHITECTURES)
def architecture(request, tmp_path_factory):
    """Model type, folder of a checkpoint, its graph."""
    folder = save_random_checkpoint(tmp_path_factory.mktemp("architecture"), request.param)
    return request.param, folder, export(folder)


def test_export_equals_the_checkpoint_as_transformers_runs_it(architecture):
    """Against a model that this toolchain has not touched, at shapes that were not traced."""
    model_type, folder, path = architecture
    original = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    for shape in ((2, 5), (7, 40)):
        tokens = padded_tokens(shape, segments=model_type in {"bert", "electra"})
        with torch.inference_mode():
            expected = original(**{k: torch.from_numpy(v) for k, v in tokens.items()}).logits
        (actual,) = run(path, tokens)
        assert relative_error(actual, expected.numpy()) <= 1e-5


def test_every_architecture_has_all_its_sites(architecture):
    _, _, path = architecture
    model = read_onnx(path)
    sites = graph_sites(model)
    # Four inputs, six weights, q, k, p, v, two residuals and a GELU input in each of two layers.
    located = locate_sites(model, sites)
    assert len(located) == len(sites) == 2 * (4 + 6 + 4 + 2 + 1)
    for place in located.values():
        consumers = {node.op_type for node, _ in place.consumers}
        if place.site.kind is SiteKind.RESIDUAL_INPUT:
            # The skipping branch, which the linear beside it reads as well.
            assert consumers == {"Add"}
            assert {use.node.op_type for use in place.value.uses()} == {"Add", "MatMul"}
        if place.site.kind is SiteKind.GELU_INPUT:
            assert consumers == {"Gelu"}


def test_question_answering_has_start_and_end(tmp_path):
    folder = save_random_checkpoint(tmp_path, question_answering=True)
    path = export(folder, SQUAD)
    original = AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    tokens = padded_tokens((3, 20))
    with torch.inference_mode():
        expected = original(**{k: torch.from_numpy(v) for k, v in tokens.items()})
    start, end = run(path, tokens)
    real = tokens["attention_mask"] == 1
    assert relative_error(start[real], expected.start_logits.numpy()[real]) <= 1e-5
    assert relative_error(end[real], expected.end_logits.numpy()[real]) <= 1e-5


def test_graph_is_what_later_stages_rely_on(exported):
    check_onnx(exported.onnx)
    model = onnx.load(exported.onnx)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 20)]
    kinds = {tensor.data_type for tensor in model.graph.initializer}
    assert onnx.TensorProto.FLOAT16 not in kinds
    operators = [node.op_type for node in model.graph.node]
    # Fused operators survive, and no boolean mask is left behind the Softmax.
    assert operators.count("LayerNormalization") == 5
    assert operators.count("Gelu") == 2
    assert not {"Where", "IsNaN", "GatherND"} & set(operators)
    for value in model.graph.input:
        assert [d.dim_param for d in value.type.tensor_type.shape.dim] == ["batch", "sequence"]


def test_encoder_matmuls_are_named_after_their_modules(exported):
    names = {node.name for node in exported.graph().graph if node.op_type == "MatMul"}
    assert "bert.encoder.layer.1.attention.self.query" in names
    assert "bert.encoder.layer.0.attention.self.scores" in names
    assert len(names) == 2 * 8


def test_parity_check_catches_a_wrong_graph(exported, tmp_path):
    model = exported.graph()
    bias = model.graph.initializers["bert.encoder.layer.1.output.dense.bias"]
    bias.const_value = ir.tensor(bias.const_value.numpy() * 1.5)
    write_onnx(model, tmp_path / "wrong.onnx")
    checkpoint = load_checkpoint(str(exported.folder), SST2)
    with pytest.raises(ExportError, match="differs from the torch model"):
        verify_export(checkpoint, tmp_path / "wrong.onnx", Head.SEQUENCE_CLASSIFICATION)


def test_parity_check_does_not_take_nan_for_equal(exported):
    checkpoint = load_checkpoint(str(exported.folder), SST2)
    with torch.no_grad():
        checkpoint.model.classifier.bias[0] = float("nan")
    with pytest.raises(ExportError, match="differs from the torch model by nan"):
        verify_export(checkpoint, exported.onnx, Head.SEQUENCE_CLASSIFICATION)


def test_graph_names_no_file_of_the_machine_that_exported_it(exported):
    assert b"site-packages" not in exported.onnx.read_bytes()
    for node in exported.graph().graph:
        assert set(node.metadata_props) <= {"pkg.torch.onnx.name_scopes"}


def test_small_graph_read_from_a_large_file_stands_alone(exported, tmp_path, monkeypatch):
    """As FP8 under 2 GB, derived from FP32 over 2 GB: no tensor may point at the old file."""
    with monkeypatch.context() as patch:
        patch.setattr(onnx_file, "_EXTERNAL_DATA_BYTES", 10_000)
        write_onnx(exported.graph(), tmp_path / "large.onnx")
    write_onnx(read_onnx(tmp_path / "large.onnx"), tmp_path / "small.onnx")
    for name in ("large.onnx", "large.onnx.data"):
        (tmp_path / name).unlink()
    tokens = padded_tokens((2, 9))
    np.testing.assert_array_equal(
        run(tmp_path / "small.onnx", tokens)[0], run(exported.onnx, tokens)[0]
    )


def test_weights_too_large_for_protobuf_go_beside_it(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "_EXTERNAL_DATA_BYTES", 10_000)
    path = tmp_path / "large.onnx"
    write_onnx(exported.graph(), path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["large.onnx", "large.onnx.data"]
    check_onnx(path)
    tokens = padded_tokens((2, 9))
    np.testing.assert_array_equal(run(path, tokens)[0], run(exported.onnx, tokens)[0])


def test_failed_write_leaves_the_old_file(exported, tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(ExportError, match="No space"):
        write_onnx(exported.graph(), path)
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    assert path.read_bytes() == b"old"


def test_not_onnx(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"\x00garbage")
    with pytest.raises(ExportError, match="as ONNX"):
        read_onnx(tmp_path / "x.onnx")
