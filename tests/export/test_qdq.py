"""Q/DQ placement and values, held against ModelOpt's fake-quantized torch model."""

from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from unittest.mock import patch

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from checkpoints import VOCABULARY
from conftest import TASK, Exported, export_random

from export.checkpoint import load_checkpoint
from export.codes import quantize
from export.errors import SiteError
from export.onnx_file import write_onnx
from export.precision import FloatType, cast_floats
from export.qdq import graph_sites, insert_qdq
from export.recipe import (
    PRESETS,
    Granularity,
    KindRecipe,
    QuantFormat,
    recipe_from_dict,
    recipe_to_dict,
)
from export.sites import SiteKind, encoder_sites, locate_sites
from export.verify import relative_error

FORMATS = [QuantFormat.FP8, QuantFormat.INT8]


def tokens(seed: int, shape=(4, 24)) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    ids = rng.integers(4, VOCABULARY, shape)
    mask = np.ones(shape, np.int64)
    mask[-1, shape[1] // 2 :] = 0
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def quantized(exported: Exported, fmt: QuantFormat, recipe=None):
    """No rule rewrites the graph unless a recipe is given: ModelOpt has the checkpoint as it is."""
    model = exported.graph()
    recipe = recipe or replace(PRESETS[fmt.value], center_attention=False, smoothquant=None)
    places = locate_sites(model, graph_sites(model))
    insert_qdq(model, recipe, exported.table, FloatType.FP16)
    return model, scales_at(places)


def scales_at(places) -> dict[str, np.ndarray]:
    """The scale that each site's consumers read it with, of those that were quantized."""
    readers = {name: place.consumers[0] for name, place in places.items()}
    producers = {name: node.inputs[index].producer() for name, (node, index) in readers.items()}
    return {
        name: node.inputs[1].const_value.numpy().astype(np.float64)
        for name, node in producers.items()
        if node is not None and node.op_type == "DequantizeLinear"
    }


def run(model: ir.Model, inputs, outputs=None):
    proto = ir.to_proto(model)
    if outputs:
        for name in outputs:
            proto.graph.output.append(onnx.ValueInfoProto(name=name))
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(outputs or ["logits"], inputs)


def quantizer_names(site) -> list[str]:
    """ModelOpt has one input quantizer a linear, where our three projections share one site."""
    if site.kind is SiteKind.LINEAR_INPUT:
        return [f"{module}.input_quantizer" for module in site.modules]
    return [site.quantizer]


def modelopt_model(exported: Exported, fmt: QuantFormat, scales):
    """ModelOpt's fake-quantized model, with the amax that our scales stand for."""
    import modelopt.torch.quantization as mtq

    checkpoint = load_checkpoint(str(exported.folder), TASK)
    num_bits = (4, 3) if fmt is QuantFormat.FP8 else 8
    sites = [
        site
        for site in encoder_sites(checkpoint.architecture, checkpoint.layers)
        # ModelOpt quantizes the softmax output in FP8 only; see int8_softmax.
        if (fmt, site.kind) != (QuantFormat.INT8, SiteKind.ATTENTION_P) and site.name in scales
    ]
    config = [{"quantizer_name": "*", "enable": False}] + [
        {
            "quantizer_name": name,
            "cfg": {
                "num_bits": num_bits,
                "axis": 0 if site.kind is SiteKind.LINEAR_WEIGHT else None,
            },
            "enable": True,
        }
        for site in sites
        for name in quantizer_names(site)
    ]
    with redirect_stdout(StringIO()):
        model = mtq.quantize(checkpoint.model, {"quant_cfg": config, "algorithm": None})
    for site in sites:
        amax = torch.tensor(scales[site.name] * fmt.max_value, dtype=torch.float32)
        for name in quantizer_names(site):
            model.get_submodule(name).amax = amax[:, None] if amax.ndim else amax
    return model


def softmax_quantizer(scale: float):
    from modelopt.torch.quantization.config import QuantizerAttributeConfig
    from modelopt.torch.quantization.nn import TensorQuantizer

    return TensorQuantizer(QuantizerAttributeConfig(num_bits=8), amax=scale * 127)


def run_reference(model, fmt: QuantFormat, scales, inputs) -> np.ndarray:
    softmax = torch.nn.functional.softmax
    scale = scales["bert.encoder.layer.0.attention.self.p"]  # the same in every layer
    quantizer = softmax_quantizer(scale) if fmt is QuantFormat.INT8 else (lambda x: x)
    with (
        torch.inference_mode(),
        patch("torch.nn.functional.softmax", lambda *a, **k: quantizer(softmax(*a, **k))),
    ):
        return model(**{k: torch.from_numpy(v) for k, v in inputs.items()}).logits.numpy()


@pytest.mark.parametrize("fmt", FORMATS)
def test_each_site_equals_modelopt_on_identical_inputs(exported, fmt):
    """Codes are equal, except next to a rounding boundary, where float32 may fall either way."""
    model, scales = quantized(exported, fmt)
    reference = modelopt_model(exported, fmt, scales)
    plain = exported.graph()
    places = locate_sites(plain, graph_sites(plain))
    activations = [
        s for s in graph_sites(plain) if s.name in scales and s.kind is not SiteKind.LINEAR_WEIGHT
    ]
    wanted = [places[s.name].value.name for s in activations]
    wanted += [f"{s.name}.dequantized" for s in activations]
    values = run(model, tokens(5), wanted)
    raw, dequantized = values[: len(activations)], values[len(activations) :]
    for site, x, ours in zip(activations, raw, dequantized, strict=True):
        quantizer = reference.get_submodule(site.quantizer)
        if (fmt, site.kind) == (QuantFormat.INT8, SiteKind.ATTENTION_P):
            quantizer = softmax_quantizer(scales[site.name])
        theirs = quantizer(torch.from_numpy(x)).numpy()
        assert_same_codes(x, ours, theirs, scales[site.name], site.name)
    for site in graph_sites(plain):
        if site.kind is SiteKind.LINEAR_WEIGHT:
            module = reference.get_submodule(site.modules[0])
            weight = module.weight.detach().numpy()
            theirs = module.weight_quantizer(module.weight).detach().numpy().T
            codes = model.graph.initializers[f"{site.name}.quantized"].const_value.numpy()
            ours = codes.astype(np.float32) * scales[site.name].astype(np.float32)
            assert_same_codes(weight.T, ours, theirs, scales[site.name], site.name)


def assert_same_codes(x, ours, theirs, scale, name):
    scale = np.broadcast_to(np.asarray(scale, np.float32), x.shape)
    differ = ~np.isclose(ours, theirs, rtol=1e-6, atol=0.0)
    assert differ.mean() <= 1e-3, name
    boundary = (ours[differ] + theirs[differ]) / 2 / scale[differ]
    np.testing.assert_allclose(x[differ] / scale[differ], boundary, rtol=1e-5, err_msg=name)
    # One step: in E4M3 at most an eighth of the magnitude, or the smallest subnormal; in INT8 one.
    step = np.abs(ours[differ] - theirs[differ]) / scale[differ]
    assert (step <= np.maximum(1.0, np.abs(boundary) / 8 + 1e-6)).all(), name


@pytest.fixture(scope="module")
def ten_models(tmp_path_factory) -> list[Exported]:
    folder = tmp_path_factory.mktemp("ten")
    return [export_random(folder / f"{seed}", seed=seed) for seed in range(10)]


@pytest.mark.parametrize("fmt", FORMATS)
def test_logits_equal_modelopt_end_to_end(fmt, ten_models):
    """Over ten random models; rounding boundaries flip now and then, and spread from there."""
    errors, effects = [], []
    for seed, exported in enumerate(ten_models):
        model, scales = quantized(exported, fmt)
        inputs = tokens(seed)
        (ours,) = run(model, inputs)
        (plain,) = run(exported.graph(), inputs)
        theirs = run_reference(modelopt_model(exported, fmt, scales), fmt, scales, inputs)
        errors.append(relative_error(ours, theirs))
        effects.append(relative_error(theirs, plain))
    assert np.median(errors) <= 1e-3, errors
    pairs = list(zip(errors, effects, strict=True))
    assert all(error < effect for error, effect in pairs), pairs


@pytest.mark.parametrize("fmt", FORMATS)
def test_weights_are_stored_in_eight_bits(exported, fmt, tmp_path):
    model, _ = quantized(exported, fmt)
    cast_floats(model, FloatType.FP16)
    write_onnx(model, tmp_path / "model.onnx")
    proto = onnx.load(tmp_path / "model.onnx")
    expected = {"fp8": onnx.TensorProto.FLOAT8E4M3FN, "int8": onnx.TensorProto.INT8}[fmt.value]
    weights = [t for t in proto.graph.initializer if t.name.endswith("weight.quantized")]
    assert len(weights) == 12
    assert {tensor.data_type for tensor in weights} == {expected}
    quantizers = [n for n in proto.graph.node if n.op_type.endswith("QuantizeLinear")]
    assert {node.domain for node in quantizers} == {""}
    # The encoder's weights shrink to a quarter, and no full-precision copy stays behind.
    encoder = sum(int(np.prod(tensor.dims)) for tensor in weights)
    saved = exported.onnx.stat().st_size - (tmp_path / "model.onnx").stat().st_size
    assert saved >= 3 * encoder


def test_query_key_and_value_share_one_quantized_input(exported):
    model, _ = quantized(exported, QuantFormat.FP8)
    nodes = {node.name: node for node in model.graph}
    prefix = "bert.encoder.layer.0.attention.self"
    inputs = {nodes[f"{prefix}.{name}"].inputs[0].name for name in ("query", "key", "value")}
    assert inputs == {f"{prefix}.input.dequantized"}
    # The residual path keeps the tensor as it was.
    source = nodes[f"{prefix}.input.QuantizeLinear"].inputs[0]
    assert "Add" in {user.node.op_type for user in source.uses()}


def test_nothing_stands_between_a_weight_and_its_matmul(exported):
    model, _ = quantized(exported, QuantFormat.FP8)
    cast_floats(model, FloatType.FP16)
    for node in model.graph:
        if node.op_type == "MatMul":
            assert [value.producer().op_type for value in node.inputs] == ["DequantizeLinear"] * 2


def test_only_the_encoder_is_quantized(exported):
    model, _ = quantized(exported, QuantFormat.INT8)
    names = [node.name for node in model.graph if node.op_type == "DequantizeLinear"]
    # A layer has 4 inputs, 6 weights and q, k, p, v; pooler and classifier have none.
    assert len(names) == 2 * 14
    assert all(name.startswith("bert.encoder.layer.") for name in names)


def test_softmax_uses_its_whole_range(exported):
    _, scales = quantized(exported, QuantFormat.FP8)
    scale = scales["bert.encoder.layer.1.attention.self.p"]
    assert scale == np.float16(1 / 448)


def test_scales_are_numbers_of_the_graphs_type(exported):
    model, scales = quantized(exported, QuantFormat.INT8)
    for scale in scales.values():
        np.testing.assert_array_equal(scale, scale.astype(np.float16).astype(np.float64))
    # So the cast to FP16 moves no scale, and the CPU computes with the engine's.
    before = {k: v.const_value.numpy() for k, v in model.graph.initializers.items()}
    cast_floats(model, FloatType.FP16)
    for name, value in model.graph.initializers.items():
        if name.endswith(".scale"):
            np.testing.assert_array_equal(value.const_value.numpy(), before[name])


def test_fp8_attention_scales_are_powers_of_two_that_cover_the_range(exported):
    _, scales = quantized(exported, QuantFormat.FP8)
    for role in "qkv":
        site = f"bert.encoder.layer.1.attention.self.{role}"
        covered = scales[site] * 448 / exported.table.sites[site].amax
        assert float(np.log2(scales[site])).is_integer()
        assert 1.0 <= covered < 2.0


def test_scale_too_small_for_fp16_is_raised(exported):
    table = exported.table
    site = "bert.encoder.layer.0.attention.self.q"
    histogram = replace(table.sites[site], amax=1e-3, upper=1e-3)
    small = replace(table, sites={**table.sites, site: histogram})
    model = exported.graph()
    places = locate_sites(model, graph_sites(model))
    insert_qdq(model, PRESETS["fp8"], small, FloatType.FP16)
    # FP16's smallest normal number; 1e-3 / 448 = 2.2e-6 would be subnormal.
    assert scales_at(places)[site] == 2.0**-14


def test_per_tensor_weights_have_one_scale(exported):
    recipe = PRESETS["int8"]
    kinds = {**recipe.kinds, SiteKind.LINEAR_WEIGHT: KindRecipe(granularity=Granularity.PER_TENSOR)}
    model, scales = quantized(exported, QuantFormat.INT8, replace(recipe, kinds=kinds))
    weights = [scale for site, scale in scales.items() if site.endswith(".weight")]
    assert {scale.shape for scale in weights} == {()}
    assert np.isfinite(run(model, tokens(0))[0]).all()


def test_excluded_attention_stays_in_high_precision(exported):
    plain = recipe_to_dict(PRESETS["fp8"])
    recipe = recipe_from_dict({**plain, "exclude": ["*.0.attention.self.[qkpv]"]})
    model, scales = quantized(exported, QuantFormat.FP8, recipe)
    nodes = {node.name: node for node in model.graph}
    kinds = {
        layer: nodes[f"bert.encoder.layer.{layer}.attention.self.scores"].inputs[0].producer()
        for layer in (0, 1)
    }
    assert kinds[0].op_type == "Transpose"
    assert kinds[1].op_type == "DequantizeLinear"
    assert len(scales) == 2 * 14 - 4


@pytest.mark.parametrize("carried", FloatType)
@pytest.mark.parametrize("fmt", FORMATS)
def test_a_channel_of_zeros_stays_zero_and_has_no_say_in_the_scales(exported, fmt, carried):
    name = "bert.encoder.layer.0.intermediate.dense.weight"
    model = exported.graph()
    weight = locate_sites(model, graph_sites(model))[name].value
    values = np.array(weight.const_value.numpy())
    values[:, 3] = 0.0
    weight.const_value = ir.tensor(values)
    recipe = replace(PRESETS[fmt.value], center_attention=False, smoothquant=None)
    insert_qdq(model, recipe, exported.table, carried)
    codes, scale = (
        model.graph.initializers[f"{name}.{what}"].const_value.numpy()
        for what in ("quantized", "scale")
    )
    assert (codes[:, 3].astype(np.float32) == 0.0).all()
    assert 0.0 < scale[3] < scale.max()
    assert np.isfinite(run(model, tokens(0))[0]).all()


def test_codes_saturate_and_round_to_even():
    values = np.array([-1000.0, 0.5, 1.5, 2.5, 1000.0], np.float32)
    codes = quantize(values, np.array(1.0), QuantFormat.INT8)
    assert codes.tolist() == [-127, 0, 2, 2, 127]


def test_graph_without_a_site_is_refused(exported):
    model = exported.graph()
    node = next(n for n in model.graph if n.name.endswith("layer.1.intermediate.dense"))
    node.metadata_props.clear()
    with pytest.raises(SiteError, match=r"layer\.1\.intermediate\.dense"):
        insert_qdq(model, PRESETS["fp8"], exported.table, FloatType.FP16)
