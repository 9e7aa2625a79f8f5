"""Architectures, precisions and targets, all built by TensorRT for RTX."""

from __future__ import annotations

import pytest
from graphs import Exported, export_checkpoint, export_random

from deploy.engine.builder import EngineSpec, Flavour, build_engine, installed_flavours
from deploy.engine.expected import expected_fusion
from deploy.engine.fusion import ProfileFusion, find_kernel, fusion_by_profile
from deploy.engine.layers import Layer, parse_layers, split_profiles
from deploy.engine.profiles import Profile, Shape, bucket_profiles
from export.onnx_file import read_onnx
from export.recipe import PRESETS

pytestmark = pytest.mark.skipif(
    Flavour.TENSORRT_RTX not in installed_flavours(),
    reason="needs tensorrt-rtx: pip install tensorrt-rtx-cu13",
)

PRECISIONS = ("fp16", "int8", "fp8")
TARGETS = ("sm89", "sm120")
# A bucket, and a profile such as users ask for who know nothing of buckets.
PROFILES = (
    *bucket_profiles((64,), max_batch=8),
    Profile(Shape(1, 16), Shape(8, 64), Shape(8, 128)),
)

Built = tuple[tuple[ProfileFusion, ...], tuple[tuple[Layer, ...], ...]]


@pytest.fixture(scope="module", params=["demo", "bert-base", "roberta", "distilbert"])
def exported(request, tmp_path_factory) -> Exported:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "demo":
        model = export_checkpoint(request.getfixturevalue("demo_model"), folder)
    elif request.param == "bert-base":
        model = export_random(folder, hidden=768, heads=12)
    else:
        model = export_random(folder, model_type=request.param, hidden=128)
    for name in PRECISIONS:
        model.derive(name, PRESETS.get(name))
    return model


def built(exported: Exported, precision: str, target: str) -> Built:
    onnx = exported[precision]
    plan = build_engine(EngineSpec(onnx, Flavour.TENSORRT_RTX, PROFILES, target))
    layers = parse_layers(plan.log)
    fusion = fusion_by_profile(layers, expected_fusion(read_onnx(onnx)), PROFILES, target)
    return fusion, split_profiles(layers, len(PROFILES))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_is_accepted_and_fused(exported, precision, target):
    fusion, layers = built(exported, precision, target)
    *buckets, dynamic = fusion
    expected = expected_fusion(read_onnx(exported[precision]))
    assert len(expected.gemms) == (0 if precision == "fp16" else len(expected.linears))
    for each in buckets:
        assert each.complete, each.unfused
        assert each.quantized_gemms == len(expected.gemms)
        assert each.fused_attention == len(expected.attentions) > 0
    # INT8 and FP16 attention have no shortest sequence; FP8 attention has.
    assert dynamic.quantized_gemms == len(expected.gemms)
    if precision == "fp8":
        assert dynamic.fused_attention == 0
        assert {each.reason for each in dynamic.unfused} == {
            "dynamic sequence 16 to 128: FP8 attention fuses from 32 tokens, the shortest counts"
        }
    else:
        assert dynamic.complete, dynamic.unfused
    # Query, key and value become one GEMM, but for FP8 on SM120.
    for part in layers:
        merged = {
            len({find_kernel(part, each).layer for each in projections})
            for projections in zip(*[iter(_projections(expected))] * 3, strict=True)
        }
        assert merged == {3 if (precision, target) == ("fp8", "sm120") else 1}


def _projections(expected):
    return [linear for linear in expected.linears if linear.role == "qkv"]
