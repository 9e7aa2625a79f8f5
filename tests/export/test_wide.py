"""Tensors that FP16 cannot hold stay FP32, and what surrounds them does not."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from conftest import TASK, Exported, random_rows
from onnx.reference import ReferenceEvaluator
from test_qdq import run, tokens

from export.calibrate import calibrate
from export.carried import attention_scores, layernorm_input, linear_output
from export.checkpoint import load_checkpoint
from export.errors import SiteError
from export.onnx_export import export_onnx
from export.onnx_file import check_onnx, write_onnx
from export.precision import FloatType, cast_floats
from export.qdq import insert_qdq
from export.recipe import PRESETS
from export.verify import relative_error
from export.wide import wide_values

LAYER = "bert.encoder.layer.0"
FFN_IN, FFN_OUT = f"{LAYER}.intermediate.dense", f"{LAYER}.output.dense"
SUM = layernorm_input(f"{LAYER}.output.LayerNorm")
ATTENTION = f"{LAYER}.attention.self"


@pytest.fixture(scope="module")
def overflowing(exported: Exported, tmp_path_factory) -> Exported:
    """One channel of the first FFN's output is near 100,000: FP16 makes infinity of it."""
    import torch

    folder = tmp_path_factory.mktemp("overflow")
    checkpoint = load_checkpoint(str(exported.folder), TASK)
    with torch.no_grad():
        checkpoint.model.get_parameter(f"{FFN_OUT}.bias")[5] = 60_000
        checkpoint.model.get_parameter(f"{FFN_OUT}.weight")[5] *= 3e4
    onnx = folder / "model.fp32.onnx"
    write_onnx(export_onnx(checkpoint, TASK.head), onnx)
    return Exported(folder, checkpoint, onnx, calibrate(checkpoint, TASK, random_rows(1)))


def fp16_logits(exported: Exported, path, *, guarded: bool) -> np.ndarray:
    """The FP16 graph in FP16 arithmetic; onnxruntime has no FP16 kernels on a CPU, and casts up."""
    model = exported.graph()
    wide = wide_values(model, exported.table.carried, FloatType.FP16) if guarded else frozenset()
    cast_floats(model, FloatType.FP16, wide)
    write_onnx(model, path)
    check_onnx(path)
    with np.errstate(over="ignore", invalid="ignore"):
        return ReferenceEvaluator(str(path)).run(["logits"], tokens(3))[0]


def test_calibration_sees_what_the_graph_carries(exported):
    """Each watched tensor's range, against onnxruntime running the graph on the same rows."""
    carried = exported.table.carried
    layers = exported.checkpoint.layers
    # Six linears, two LayerNorms and a QK^T a layer; the embeddings' LayerNorm, pooler, classifier.
    assert len(carried) == 9 * layers + 3
    model = exported.graph()
    names = [linear_output(FFN_IN), SUM, attention_scores(ATTENTION)]
    values = [
        next(iter(sorted(wide_values(model, {name: 1e9}, FloatType.FP16), key=order(name))))
        for name in names
    ]
    seen = dict.fromkeys(names, 0.0)
    for ids in random_rows(1).features.input_ids:
        inputs = {"input_ids": ids[None], "attention_mask": np.ones((1, len(ids)), np.int64)}
        inputs["token_type_ids"] = np.zeros_like(inputs["input_ids"])
        for name, value in zip(names, run(model, inputs, [v.name for v in values]), strict=True):
            seen[name] = max(seen[name], float(np.abs(value).max()))
    for name in names:
        # Calibration pads rows into batches, and padding counts: at least what the rows alone have.
        assert seen[name] * (1 - 1e-4) <= carried[name], name
        assert carried[name] <= 2 * seen[name], name


def order(name: str):
    """Puts the value that the name stands for in front: the last of the pattern it is found by."""
    wanted = {"output": "Add", "input": "Add", "scores": "MatMul"}[name.rsplit(".", 1)[1]]
    return lambda value: value.producer().op_type != wanted


def test_fp16_overflows_without_the_guard_and_not_with_it(overflowing, tmp_path, warnings_of):
    (reference,) = run(overflowing.graph(), tokens(3))
    bare = fp16_logits(overflowing, tmp_path / "bare.onnx", guarded=False)
    assert not np.isfinite(bare).all() or relative_error(bare, reference) > 0.1
    guarded = fp16_logits(overflowing, tmp_path / "guarded.onnx", guarded=True)
    # FP16 carries 11 bits; a few layers deep, errors of some thousandths are usual.
    assert relative_error(guarded, reference) <= 2e-2
    warnings = warnings_of("export.wide")
    assert any(SUM in line and "stays fp32" in line for line in warnings), warnings


@pytest.mark.parametrize("recipe", ["fp8", "int8", "fp8-mlperf"])
def test_a_quantized_graph_keeps_its_codes_around_a_wide_tensor(overflowing, recipe, tmp_path):
    model = overflowing.graph()
    insert_qdq(model, PRESETS[recipe], overflowing.table, FloatType.FP16)
    wide = wide_values(model, overflowing.table.carried, FloatType.FP16)
    cast_floats(model, FloatType.FP16, wide)
    write_onnx(model, tmp_path / "model.onnx")
    check_onnx(tmp_path / "model.onnx")
    node = next(node for node in model.graph if node.name == FFN_OUT)
    # No Cast between DQ and MatMul: the engine would multiply in FP32.
    assert {value.producer().op_type for value in node.inputs} == {"DequantizeLinear"}
    assert {value.dtype for value in (*node.inputs, *node.outputs)} == {ir.DataType.FLOAT}
    narrow = next(node for node in model.graph if node.name == FFN_IN)
    assert {value.dtype for value in (*narrow.inputs, *narrow.outputs)} == {ir.DataType.FLOAT16}


def test_bf16_and_ordinary_ranges_need_nothing(overflowing, exported, warnings_of):
    assert not wide_values(overflowing.graph(), overflowing.table.carried, FloatType.BF16)
    assert not wide_values(exported.graph(), exported.table.carried, FloatType.FP16)
    assert warnings_of("export.wide") == []


def test_near_the_limit_is_a_warning_only(exported, warnings_of):
    carried = {**exported.table.carried, SUM: 40_000.0}
    assert not wide_values(exported.graph(), carried, FloatType.FP16)
    (warning,) = warnings_of("export.wide")
    assert SUM in warning
    assert "40000" in warning


def test_a_tensor_that_is_not_in_the_graph_is_an_error(exported):
    with pytest.raises(SiteError, match=r"elsewhere.*cannot be found") as error:
        wide_values(exported.graph(), {"elsewhere.output": 1e6}, FloatType.FP16)
    assert "bf16" in error.value.remedy


def test_scores_too_large_for_fp16_reach_the_softmax_in_fp32(exported, tmp_path):
    model = exported.graph()
    insert_qdq(model, PRESETS["fp8"], exported.table, FloatType.FP16)
    carried = replace(exported.table, carried={attention_scores(ATTENTION): 1e5}).carried
    cast_floats(model, FloatType.FP16, wide_values(model, carried, FloatType.FP16))
    write_onnx(model, tmp_path / "model.onnx")
    check_onnx(tmp_path / "model.onnx")
    softmaxes = [node for node in model.graph if node.op_type == "Softmax"]
    assert [node.inputs[0].dtype.name for node in softmaxes] == ["FLOAT", "FLOAT16"]
