"""Engines built for real, by TensorRT for RTX, on a machine that needs no GPU for it."""

from pathlib import Path

import onnx
import pytest
from graphs import Exported, export_random

from deploy.engine.builder import (
    BuiltEngine,
    EngineSpec,
    Flavour,
    build_engine,
    installed_flavours,
    supported_targets,
)
from deploy.engine.expected import expected_fusion
from deploy.engine.fusion import fusion_by_profile
from deploy.engine.layers import parse_layers
from deploy.engine.profiles import MIN_FP8_SEQUENCE, Profile, Shape, bucket_profiles
from deploy.errors import EngineError
from export.onnx_file import read_onnx
from export.recipe import PRESETS, recipe_from_dict, recipe_to_dict

pytestmark = pytest.mark.skipif(
    Flavour.TENSORRT_RTX not in installed_flavours(),
    reason="needs tensorrt-rtx: pip install tensorrt-rtx-cu13",
)

WIDE = {
    "wide residual": "bert.encoder.layer.0.output.LayerNorm.input",
    "wide ffn": "bert.encoder.layer.0.output.dense.output",
    "wide scores": "bert.encoder.layer.0.attention.self.scores",
}
STATIC = bucket_profiles((32, 64), max_batch=4)
DYNAMIC = (Profile(Shape(1, 16), Shape(4, 48), Shape(4, 64)),)


@pytest.fixture(scope="module")
def graphs(tmp_path_factory) -> Exported:
    """One random model in every precision."""
    # Head dim 64, as in BERT.
    exported = export_random(tmp_path_factory.mktemp("graphs"), hidden=128)
    without_attention = recipe_from_dict(
        {**recipe_to_dict(PRESETS["fp8"]), "exclude": ["*.attention.self.[qkpv]"]}
    )
    without_one = recipe_from_dict(
        {**recipe_to_dict(PRESETS["fp8"]), "exclude": ["*.1.attention.self.[qkpv]"]}
    )
    recipes = {
        **PRESETS,
        "linears": without_attention,
        "one": without_one,
        "fp16": None,
    }
    for name, recipe in recipes.items():
        exported.derive(name, recipe)
    for name, tensor in WIDE.items():
        exported.derive(name, PRESETS["fp8"], wide={tensor: 1e5})
    return exported


def built(onnx_file: Path, profiles=STATIC, target="sm89") -> BuiltEngine:
    return build_engine(EngineSpec(onnx_file, Flavour.TENSORRT_RTX, profiles, target))


def fusion(onnx_file: Path, profiles=STATIC, target="sm89"):
    layers = parse_layers(built(onnx_file, profiles, target).log)
    return fusion_by_profile(layers, expected_fusion(read_onnx(onnx_file)), profiles, target)


@pytest.mark.parametrize("preset", PRESETS)
def test_everything_quantized_is_fused_in_every_bucket(graphs, preset):
    profiles = fusion(graphs[preset])
    assert [each.profile.max.sequence for each in profiles] == [32, 64]
    for each in profiles:
        assert (each.quantized_gemms, each.expected_gemms) == (12, 12)
        assert (each.fused_attention, each.expected_attention) == (2, 2)
        assert each.complete


@pytest.mark.parametrize("name", WIDE)
def test_an_fp32_region_costs_no_8_bit_kernel(graphs, name):
    for each in fusion(graphs[name]):
        assert each.quantized_gemms == 12
        assert each.fused_attention == 2


def test_dynamic_sequence_from_16_loses_fp8_attention_and_the_report_says_so(graphs):
    (only,) = fusion(graphs["fp8"], DYNAMIC)
    assert only.quantized_gemms == 12
    assert only.fused_attention == 0
    assert [each.module for each in only.unfused] == [
        "bert.encoder.layer.0.attention.self",
        "bert.encoder.layer.1.attention.self",
    ]
    assert all("dynamic sequence 16 to 64" in each.reason for each in only.unfused)
    assert not only.complete


@pytest.mark.parametrize("longest", [None, 64])
def test_fp8_attention_needs_32_tokens_static_or_dynamic(graphs, longest):
    profiles = tuple(
        Profile(Shape(1, shortest), Shape(4, longest or shortest), Shape(4, longest or shortest))
        for shortest in (MIN_FP8_SEQUENCE - 1, MIN_FP8_SEQUENCE)
    )
    assert [each.fused_attention for each in fusion(graphs["fp8"], profiles)] == [0, 2]


def test_merged_projections_count_as_three(graphs):
    layers = parse_layers(built(graphs["fp8"]).log)
    prefix = "bert.encoder.layer.0.attention.self"
    projections = {f"{prefix}.{name}" for name in ("query", "key", "value")}
    merged = [layer for layer in layers if layer.type == "gemm" and layer.onnx_nodes >= projections]
    assert len(merged) == len(STATIC)


def test_linears_alone_leave_attention_fused_in_high_precision(graphs):
    expected = expected_fusion(read_onnx(graphs["linears"]))
    assert not any(attention.quantized for attention in expected.attentions)
    assert all(each.complete for each in fusion(graphs["linears"]))


def test_one_attention_left_in_high_precision_is_held_to_that(graphs):
    expected = expected_fusion(read_onnx(graphs["one"]))
    assert [attention.quantized for attention in expected.attentions] == ["fp8", None]
    for each in fusion(graphs["one"]):
        assert (each.fused_attention, each.complete) == (2, True)


def test_fp16_engine_promises_no_8_bit_gemm(graphs):
    for each in fusion(graphs["fp16"]):
        assert (each.quantized_gemms, each.expected_gemms) == (0, 0)
        assert each.fused_attention == 2


def test_other_targets_build_too(graphs):
    assert all(each.complete for each in fusion(graphs["fp8"], target="sm120"))


def test_unknown_target_names_the_known_ones(graphs):
    with pytest.raises(EngineError, match="'sm90'") as error:
        built(graphs["fp16"], target="sm90")
    assert "sm89" in error.value.remedy
    assert "sm120" in supported_targets(Flavour.TENSORRT_RTX)


def test_parser_error_names_the_node(tmp_path):
    node = onnx.helper.make_node("NoSuchOperator", ["x"], ["y"], name="the_culprit")
    x, y = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", "sequence"])
        for name in ("x", "y")
    )
    graph = onnx.helper.make_graph([node], "g", [x], [y])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "bad.onnx")
    with pytest.raises(EngineError, match=r"the_culprit.*NoSuchOperator"):
        built(tmp_path / "bad.onnx")


def test_file_that_is_no_onnx(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"garbage")
    with pytest.raises(EngineError, match="parser refuses"):
        built(tmp_path / "x.onnx")


def test_missing_flavour_says_how_to_install_it(monkeypatch, graphs):
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)
    with pytest.raises(EngineError, match="tensorrt is not installed") as error:
        build_engine(EngineSpec(graphs["fp16"], Flavour.TENSORRT, STATIC, None))
    assert "pip install tensorrt-cu13" in error.value.remedy
