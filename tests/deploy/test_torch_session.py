"""The torch backend against onnxruntime, on the CPU."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx_ir as ir
import pytest
import torch
from checkpoints import VOCABULARY, save_random_checkpoint
from graphs import Exported, export_random

from calib_data.tasks import get_task
from deploy.engine.ort import OrtSession
from deploy.engine.profiles import bucket_profiles
from deploy.engine.session import Backend, Precision
from deploy.engine.torch_graph import AS_WRITTEN, FOR_GPU, Lowering, convert
from deploy.engine.torch_session import TorchSession
from deploy.errors import BackendError
from export.checkpoint import load_checkpoint
from export.onnx_export import export_onnx
from export.onnx_file import read_onnx, write_onnx
from export.precision import FloatType, cast_floats
from export.recipe import PRESETS
from export.verify import relative_error

PROFILES = bucket_profiles((32, 64), max_batch=4)
QUANTIZED = [Precision.FP8, Precision.INT8]

# FP32 sums in another order.
SAME = 1e-4


@pytest.fixture(scope="module", params=["bert", "roberta", "distilbert", "electra"])
def exported(request, tmp_path_factory) -> Exported:
    folder = tmp_path_factory.mktemp(request.param)
    return export_random(folder, model_type=request.param)


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Exported:
    return export_random(tmp_path_factory.mktemp("bert"))


def tokens(batch=3, sequence=20, padded=True):
    ids = np.random.default_rng(0).integers(4, VOCABULARY, (batch, sequence))
    mask = np.ones_like(ids)
    if padded:
        mask[0, sequence // 2 :] = 0
        ids[0, sequence // 2 :] = 0
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def run(graph, inputs, module="module"):
    with torch.inference_mode():
        values = getattr(graph, module)(*(torch.from_numpy(inputs[n]) for n in graph.input_names))
    return {name: value.numpy() for name, value in zip(graph.output_names, values, strict=True)}


def fp32_arithmetic(path):
    model = read_onnx(path)
    cast_floats(model, FloatType.FP32)
    return model


def test_fp32_is_what_onnxruntime_computes(exported):
    inputs = tokens()
    expected = OrtSession(exported["fp32"], Precision.FP32, PROFILES).run(inputs)
    found = TorchSession(exported["fp32"], Precision.FP32, PROFILES).run(inputs)
    assert found.keys() == expected.keys()
    for name, values in found.items():
        assert relative_error(values, expected[name]) < SAME


def test_fp16_arithmetic_stays_within_its_rounding(exported):
    inputs = tokens()
    path = exported.derive("fp16")
    expected = OrtSession(path, Precision.FP16, PROFILES).run(inputs)["logits"]
    found = run(convert(read_onnx(path)), inputs)["logits"]
    assert 0 < relative_error(found, expected) < 5e-3


@pytest.mark.parametrize("precision", QUANTIZED)
def test_quantized_graphs_are_computed_node_by_node(exported, precision):
    """In the same arithmetic, nothing but a rounding boundary can tell the two apart."""
    inputs = tokens()
    path = exported.derive(precision.value, PRESETS[precision.value])
    expected = OrtSession(path, precision, PROFILES).run(inputs)["logits"]
    found = TorchSession(path, precision, PROFILES).run(inputs)["logits"]
    exact = OrtSession(exported["fp32"], Precision.FP32, PROFILES).run(inputs)["logits"]
    assert relative_error(found, expected) < relative_error(expected, exact) / 10


@pytest.mark.parametrize("precision", QUANTIZED)
def test_every_site_gets_the_codes_that_onnxruntime_gives_it(exported, precision):
    """Site by site on identical inputs: each Q/DQ pair alone, fed with what the other computed."""
    path = exported.derive(precision.value, PRESETS[precision.value])
    model = fp32_arithmetic(path)
    pairs = [node for node in model.graph if node.op_type == "QuantizeLinear"]
    assert len(pairs) == 2 * 8
    for node in pairs:
        scale, zero = node.inputs[1], node.inputs[2]
        step = float(scale.const_value.numpy())
        values = np.random.default_rng(0).normal(size=4096).astype(np.float32) * step * 100
        values[:3] = 0.0, step * 1e4, -step * 1e4  # saturates on both sides
        expected = run_ort_pair(values, step, zero.dtype)
        found = run_pair(values, step, zero.dtype)
        assert np.array_equal(found, expected), node.name


def run_pair(values, step, dtype):
    from deploy.engine.torch_ops import dequantize, quantize

    scale = torch.tensor(step)
    kind = torch.int8 if dtype == ir.DataType.INT8 else torch.float8_e4m3fn
    return dequantize(quantize(torch.from_numpy(values), scale, kind), scale, 0).numpy()


def run_ort_pair(values, step, dtype):
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper

    kind = TensorProto.INT8 if dtype == ir.DataType.INT8 else TensorProto.FLOAT8E4M3FN
    zero = helper.make_tensor("zero", kind, [], [0.0] if kind != TensorProto.INT8 else [0])
    scale = helper.make_tensor("scale", TensorProto.FLOAT, [], [step])
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n"]) for n in "xy")
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "pair", [x], [y], [zero, scale])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": values})[0]


@pytest.mark.parametrize("precision", QUANTIZED)
def test_what_the_gpu_fuses_is_the_same_function(exported, precision):
    """Every replacement, in FP32 arithmetic on the CPU, against the graph node by node."""
    path = exported.derive(precision.value, PRESETS[precision.value])
    model, inputs = fp32_arithmetic(path), tokens()
    literal, fused = convert(model), convert(model, FOR_GPU)
    exact = OrtSession(exported["fp32"], Precision.FP32, PROFILES).run(inputs)["logits"]
    expected = run(literal, inputs)["logits"]
    effect = relative_error(expected, exact)
    # Reciprocals for divisions and sums in another order move a value across a rounding boundary
    # here and there, which costs far less than quantization.
    assert relative_error(run(fused, inputs)["logits"], expected) < effect / 3
    assert fused.simulated == ()
    called = [
        node.target.__name__ for node in fused.module.graph.nodes if node.op == "call_function"
    ]
    # Per layer: query, key and value in one and the first feed-forward linear hand on codes; so
    # does attention. Nothing else is left to quantize but the two LayerNorms' outputs.
    assert called.count("quantized_attention") == 2
    assert called.count("matmul") <= 1  # ELECTRA's embeddings have one of their own
    assert called.count("quantize") == 2 * 2
    assert called.count("dequantize") == 0
    linears = {name: called.count(name) for name in ("quantized_linear", "fp8_linear")}
    two = {"quantized_linear": 4, "fp8_linear": 4}
    assert linears == (
        two if precision is Precision.FP8 else {"quantized_linear": 8, "fp8_linear": 0}
    )


def test_fp16_attention_takes_no_mask_where_nothing_is_masked(bert):
    graph = convert(read_onnx(bert["fp32"]), FOR_GPU)
    assert graph.unmasked is not graph.module
    whole, padded = tokens(padded=False), tokens()
    assert (
        relative_error(run(graph, whole, "unmasked")["logits"], run(graph, whole)["logits"]) < SAME
    )
    assert (
        relative_error(run(graph, padded, "unmasked")["logits"], run(graph, padded)["logits"])
        > SAME
    )
    # Both are on the same weights.
    masked = dict(graph.module.named_buffers())
    unmasked = dict(graph.unmasked.named_buffers())
    assert unmasked
    assert all(masked[name].data_ptr() == each.data_ptr() for name, each in unmasked.items())


def test_attention_left_in_high_precision_is_fused_there_and_said_to_be(bert):
    path = bert.derive("mlperf", PRESETS["fp8-mlperf"])
    graph = convert(read_onnx(path), Lowering(eight_bit_linears=True, fused_attention=True))
    assert len(graph.simulated) == 1
    assert "softmax output" in graph.simulated[0]


def test_question_answering_has_an_output_for_every_token(tmp_path):
    folder = save_random_checkpoint(tmp_path, question_answering=True)
    task = get_task("squad")
    write_onnx(export_onnx(load_checkpoint(str(folder), task), task.head), tmp_path / "m.onnx")
    inputs = tokens(2, 24)
    expected = OrtSession(tmp_path / "m.onnx", Precision.FP32, PROFILES).run(inputs)
    found = TorchSession(tmp_path / "m.onnx", Precision.FP32, PROFILES).run(inputs)
    for name, values in expected.items():
        assert found[name].shape == (2, 24)
        assert relative_error(found[name], values) < SAME


def test_says_what_its_numbers_are_worth(bert):
    fp8 = TorchSession(bert.derive("fp8", PRESETS["fp8"]), Precision.FP8, PROFILES)
    fp32 = TorchSession(bert["fp32"], Precision.FP32, PROFILES)
    assert (fp8.info.backend, fp8.info.arithmetic, fp8.info.simulated) == (
        Backend.TORCH,
        "fp32",
        True,
    )
    assert (fp32.info.arithmetic, fp32.info.simulated) == ("fp32", False)


@pytest.mark.parametrize("shape", [(5, 20), (1, 65)])
def test_beyond_the_profiles(bert, shape):
    with pytest.raises(BackendError, match="fits no profile"):
        TorchSession(bert["fp32"], Precision.FP32, PROFILES).run(tokens(*shape))


def test_threads_and_closing(bert):
    session = TorchSession(bert["fp32"], Precision.FP32, PROFILES)
    batches = [tokens(1 + i % 4, 10 + i) for i in range(6)]
    expected = [session.run(each)["logits"] for each in batches]

    def work(index):
        found = session.run(batches[index % 6])["logits"]
        return np.array_equal(found, expected[index % 6])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(60)))
    out = np.empty_like(expected[0])
    assert session.run(batches[0], {"logits": out})["logits"] is out
    assert np.array_equal(out, expected[0])
    session.close()
    session.close()
    with pytest.raises(BackendError, match="is closed"):
        session.run(batches[0])


def test_an_operator_that_no_export_has_is_named(bert):
    model = read_onnx(bert["fp32"])
    node = next(node for node in model.graph if node.op_type == "Tanh")
    node.op_type, node.name = "Erf", "the_culprit"
    with pytest.raises(BackendError, match=r"'ai\.onnx\.Erf' \(node 'the_culprit'\)"):
        convert(model)


def test_an_attribute_that_no_export_has_is_named(bert):
    model = read_onnx(bert["fp32"])
    node = next(node for node in model.graph if node.op_type == "Gelu")
    node.attributes["approximate"] = ir.AttrString("approximate", "tanh")
    with pytest.raises(BackendError, match="Gelu with approximate=none only, not tanh"):
        convert(model, AS_WRITTEN)


def test_widths_that_8_bit_gemms_cannot_take_are_computed_as_written(tmp_path):
    narrow = export_random(tmp_path, hidden=40)  # no multiple of 16
    path = narrow.derive("fp8", PRESETS["fp8"])
    model, inputs = fp32_arithmetic(path), tokens()
    fused = convert(model, FOR_GPU)
    called = {node.target.__name__ for node in fused.module.graph.nodes if callable(node.target)}
    assert not called & {"fp8_linear", "quantized_linear", "quantized_attention"}
    literal = run(convert(model), inputs)["logits"]
    # Attention is one kernel even so, with its softmax output in FP32.
    assert relative_error(run(fused, inputs)["logits"], literal) < 0.1
