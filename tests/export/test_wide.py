"""Tensors that FP16 cannot hold stay FP32, and what surrounds them does not."""

import json

import numpy as np
import onnx_ir as ir
import pytest
from checkpoints import save_random_checkpoint
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
from export.wide import warn_of_wide_tensors, wide_values

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
        next(iter(sorted(wide_values(model, {name: 1e9}, FloatType.FP16), key=order(name, model))))
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


def order(name: str, model: ir.Model):
    """Puts the value that the name stands for in front of those that follow it."""
    wanted = {"output": "Add", "input": "Add", "scores": "MatMul"}[name.rsplit(".", 1)[1]]
    place = {node: index for index, node in enumerate(model.graph)}
    return lambda value: (value.producer().op_type != wanted, place[value.producer()])


def test_fp16_overflows_without_the_guard_and_not_with_it(overflowing, tmp_path, warnings_of):
    (reference,) = run(overflowing.graph(), tokens(3))
    bare = fp16_logits(overflowing, tmp_path / "bare.onnx", guarded=False)
    assert not np.isfinite(bare).all() or relative_error(bare, reference) > 0.1
    guarded = fp16_logits(overflowing, tmp_path / "guarded.onnx", guarded=True)
    # FP16 carries 11 bits; a few layers deep, errors of some thousandths are usual.
    assert relative_error(guarded, reference) <= 2e-2
    warn_of_wide_tensors(overflowing.table.carried, FloatType.FP16)
    warnings = warnings_of("export.wide")
    assert any(SUM in line and "stays fp32" in line for line in warnings), warnings


@pytest.fixture(scope="module", params=["gelu", "gelu_new", "relu"])
def wide_activation(request, tmp_path_factory) -> Exported:
    """The first feed-forward linear reaches 110,000 in one channel, and so does what follows it."""
    import torch

    folder = save_random_checkpoint(tmp_path_factory.mktemp(request.param))
    config = folder / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "hidden_act": request.param}))
    checkpoint = load_checkpoint(str(folder), TASK)
    with torch.no_grad():
        checkpoint.model.get_parameter(f"{FFN_IN}.bias")[5] = 110_000
        checkpoint.model.get_parameter(f"{FFN_OUT}.weight")[:, 5] *= 1e-5
    onnx = folder / "model.fp32.onnx"
    write_onnx(export_onnx(checkpoint, TASK.head), onnx)
    return Exported(folder, checkpoint, onnx, calibrate(checkpoint, TASK, random_rows(1)))


@pytest.mark.parametrize("recipe", [None, "fp8", "fp8-mlperf", "int8"])
def test_whatever_follows_a_wide_tensor_stays_finite(wide_activation, recipe, tmp_path):
    """In FP16 arithmetic, through every activation and through Q/DQ."""
    model = wide_activation.graph()
    (reference,) = run(model, tokens(3))
    if recipe:
        insert_qdq(model, PRESETS[recipe], wide_activation.table, FloatType.FP16)
    cast_floats(
        model,
        FloatType.FP16,
        wide_values(model, wide_activation.table.carried, FloatType.FP16),
    )
    write_onnx(model, tmp_path / "model.onnx")
    check_onnx(tmp_path / "model.onnx")
    with np.errstate(over="ignore", invalid="ignore"):
        (logits,) = ReferenceEvaluator(str(tmp_path / "model.onnx")).run(["logits"], tokens(3))
    assert np.isfinite(logits).all()
    if recipe is None:
        assert relative_error(logits, reference) <= 2e-2


@pytest.mark.parametrize("role", ["query", "key", "value"])
@pytest.mark.parametrize("recipe", ["fp8", "fp8-mlperf", "int8"])
def test_one_wide_projection_costs_no_other_its_8_bits(exported, role, recipe, tmp_path):
    model = exported.graph()
    insert_qdq(model, PRESETS[recipe], exported.table, FloatType.FP16)
    carried = {linear_output(f"{ATTENTION}.{role}"): 1e5}
    cast_floats(model, FloatType.FP16, wide_values(model, carried, FloatType.FP16))
    write_onnx(model, tmp_path / "model.onnx")
    check_onnx(tmp_path / "model.onnx")
    for node in model.graph:
        if node.op_type == "MatMul" and (node.name or "").startswith("bert.encoder"):
            assert {value.producer().op_type for value in node.inputs} == {"DequantizeLinear"}


def test_a_constant_that_only_wide_nodes_read_may_be_wide_itself(exported, tmp_path):
    model = exported.graph()
    bias = model.graph.initializers[f"{FFN_IN}.bias"]
    values = bias.const_value.numpy().copy()
    values[0] = 1e5
    bias.const_value = ir.tensor(values)
    wide = wide_values(model, {linear_output(FFN_IN): 1e5}, FloatType.FP16)
    cast_floats(model, FloatType.FP16, wide)
    write_onnx(model, tmp_path / "model.onnx")
    check_onnx(tmp_path / "model.onnx")
    # And no constant is kept twice.
    assert all(value.uses() for value in model.graph.initializers.values())


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
    warn_of_wide_tensors(overflowing.table.carried, FloatType.BF16)
    warn_of_wide_tensors(exported.table.carried, FloatType.FP16)
    assert warnings_of("export.wide") == []


def test_near_the_limit_is_a_warning_only(exported, warnings_of):
    carried = {**exported.table.carried, SUM: 40_000.0}
    assert not wide_values(exported.graph(), carried, FloatType.FP16)
    warn_of_wide_tensors(carried, FloatType.FP16)
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
    carried = {attention_scores(ATTENTION): 1e5}
    cast_floats(model, FloatType.FP16, wide_values(model, carried, FloatType.FP16))
    write_onnx(model, tmp_path / "model.onnx")
    check_onnx(tmp_path / "model.onnx")
    softmaxes = [node for node in model.graph if node.op_type == "Softmax"]
    assert [node.inputs[0].dtype.name for node in softmaxes] == ["FLOAT", "FLOAT16"]
