"""Both sources of layers, in the formats of the releases that write them."""

from __future__ import annotations

import json

import pytest

from deploy.engine.expected import ExpectedFusion, Operation
from deploy.engine.fusion import fusion_by_profile
from deploy.engine.inspector import parse_inspection
from deploy.engine.layers import datatype_name, parse_layers, split_profiles
from deploy.engine.profiles import Profile, Shape
from deploy.errors import EngineError

SCORES, CONTEXT = "l.0.attention.scores", "l.0.attention.context"
EXPECTED = ExpectedFusion(
    linears=(Operation("l.0.dense", 0, "ffn in", {"input": "fp8", "weight": "fp8"}, "fp16"),),
    attentions=(
        Operation("l.0.attention", 0, "attention", dict.fromkeys("qkpv", "fp8"), "fp16", 64, 2),
    ),
)
SHAPES = tuple(Profile(Shape(1, s), Shape(4, s), Shape(4, s)) for s in (64, 128))


def metadata(*nodes: str, separator: str = "") -> str:
    return separator.join(f"[ONNX Layer: {node}]" for node in nodes)


def tensors_10(*datatypes: str) -> list[dict[str, object]]:
    return [
        {"Name": f"t{i}", "Dimensions": [-1, 128], "Format/Datatype": datatype}
        for i, datatype in enumerate(datatypes)
    ]


def tensors_11(*datatypes: str) -> list[dict[str, object]]:
    return [
        {
            "Name": f"t{i}",
            "Dimensions": [-1, 128],
            "Strides": [128, 1],
            "StrideOrder": [1, 0],
            "Datatype": datatype,
            "Format": "(Linear) Row major linear format",
        }
        for i, datatype in enumerate(datatypes)
    ]


def compiled_10(mark: str = "", region: int = 0) -> list[dict[str, object]]:
    return [
        {
            "Name": f"l.0.dense{mark}_myl{region}_3",
            "LayerType": "gemm",
            "Inputs": tensors_10("FP8"),
            "Outputs": tensors_10("Half"),
            "TacticName": "sm90_xmma_gemm_e4m3f16_e4m3f32_f32_tn_n_tilesize64x128x128",
            "StreamId": 0,
            "Metadata": metadata("l.0.dense", "l.0.bias", separator="\x1f"),
        },
        {
            "Name": f"_gemm_mha_v2_myl{region}_4",
            "LayerType": "kgen",
            "Inputs": tensors_10("FP8", "FP8", "Half", "FP8"),
            "Outputs": tensors_10("FP8"),
            "TacticName": "_gemm_mha_v2_0x957a2fe283f77dcf35c142c1390a3e6a",
            "StreamId": 0,
            "Metadata": metadata(SCORES, "softmax", CONTEXT, separator="\x1e"),
        },
    ]


# TensorRT 10.1 to 10.10, as NVIDIA/TensorRT's issues 4020 (JSON) and 4397 (compiled regions) quote
# them: one "Format/Datatype", no constants in regions, weights apart in other layers.
TENSORRT_10 = {
    "Layers": [
        {
            "Name": "Reformatting CopyNode for Input Tensor 0 to l.0.dense",
            "LayerType": "Reformat",
            "Inputs": tensors_10("Row major linear FP16 format"),
            "Outputs": tensors_10("Thirty-two wide channel vectorized row major Int8 format"),
            "ParameterType": "Reformat",
            "Origin": "REFORMAT",
            "TacticValue": "0x00000000000003e8",
            "StreamId": 0,
            "Metadata": "",
        },
        {
            "Name": "conv",
            "LayerType": "CaskConvActPool",
            "Inputs": tensors_10("Row major Int8 format"),
            "Outputs": tensors_10("N/A due to dynamic shapes"),
            "ParameterType": "Convolution",
            "Weights": {"Type": "Int8", "Count": 9408},
            "Bias": {"Type": "Float", "Count": 64},
            "Metadata": metadata("conv"),
        },
        *compiled_10(),
    ],
    "Bindings": ["input_ids", "logits"],
}

# TensorRT 11.1 (NVIDIA/TensorRT, trt-perf-analysis) and RTX 1.7: "Datatype" apart from "Format",
# constants listed, and trtexec's file is the bare list.
TENSORRT_11 = [
    {
        "Name": "__mye6996_0_myl0_0",
        "LayerType": "shape_call",
        "Inputs": [],
        "Constants": [],
        "Outputs": [],
        "TacticName": "",
        "StreamId": 0,
        "Metadata": "",
    },
    {
        "Name": "l.0.dense_myl0_3",
        "LayerType": "gemm",
        "Inputs": tensors_11("FP8"),
        "Constants": tensors_11("FP8", "Float", "Float"),
        "Outputs": tensors_11("Half"),
        "TacticName": "__myelin_CASK_STUB",
        "StreamId": 0,
        "Metadata": metadata("l.0.dense", "l.0.bias"),
    },
    {
        "Name": "_gemm_mha_v2_myl0_4",
        "LayerType": "kgen",
        "Inputs": tensors_11("FP8", "FP8", "Half", "FP8"),
        "Constants": [],
        "Outputs": tensors_11("FP8"),
        "TacticName": "_gemm_mha_v2_0x0d7e3d4d107c2acf1324a5ab537d2e08",
        "StreamId": 0,
        "Metadata": metadata(SCORES, CONTEXT),
    },
]


def as_log(layers: list[dict[str, object]]) -> str:
    """The builder's detailed listing of the same layers: `Key: value` in the order of the JSON."""

    def text(value: object) -> str:
        if isinstance(value, list) and value and isinstance(value[0], dict):
            return f"[ {', '.join(text(item) for item in value)}]"
        if isinstance(value, dict):
            return "{ " + ", ".join(f"{key}: {text(item)}" for key, item in value.items()) + " }"
        return json.dumps(value) if isinstance(value, list) else str(value)

    lines = [", ".join(f"{key}: {text(item)}" for key, item in layer.items()) for layer in layers]
    return "Layers:\n" + "\n".join(lines)


@pytest.mark.parametrize("inspected", [TENSORRT_10, TENSORRT_11])
def test_either_release_tells_of_fused_fp8(inspected):
    layers = parse_inspection(json.dumps(inspected))
    (fusion,) = fusion_by_profile(layers, EXPECTED, SHAPES[:1], "sm90")
    assert (fusion.quantized_gemms, fusion.fused_attention) == (1, 1)
    assert fusion.layers == len(layers)
    assert fusion.complete


@pytest.mark.parametrize("layers", [compiled_10(), TENSORRT_11])
def test_log_and_inspector_tell_the_same_layers(layers):
    assert parse_layers([as_log(layers)]) == parse_inspection(json.dumps({"Layers": layers}))


def test_types_have_one_name_whatever_the_release_calls_them():
    reformat, conv, gemm, mha = parse_inspection(json.dumps(TENSORRT_10))
    assert (reformat.inputs, reformat.outputs) == (("fp16",), ("int8",))
    assert (conv.inputs, conv.constants, conv.outputs) == (
        ("int8",),
        ("int8", "fp32"),
        ("unknown",),
    )
    assert (gemm.inputs, gemm.outputs) == (("fp8",), ("fp16",))
    assert mha.inputs == ("fp8", "fp8", "fp16", "fp8")
    assert gemm.onnx_nodes == {"l.0.dense", "l.0.bias"}
    assert datatype_name("E4M3") == "fp8"
    assert datatype_name("Channel major BFloat16 format where channel % 8 == 0") == "bf16"
    assert datatype_name("Row major linear INT64 format (kLINEAR)") == "int64"


@pytest.mark.parametrize("kind", ["gemm", "runtime_fusion"])
def test_where_no_weights_are_listed_only_a_library_gemm_is_trusted(kind):
    layers = [{**layer, "LayerType": kind} for layer in compiled_10()[:1]]
    (fusion,) = fusion_by_profile(
        parse_inspection(json.dumps(layers)), EXPECTED, SHAPES[:1], "sm90"
    )
    assert fusion.quantized_gemms == (1 if kind == "gemm" else 0)


def test_profiles_are_told_by_their_mark_however_many_regions_each_has():
    both = [
        *compiled_10(region=0),
        *compiled_10(region=1),
        *compiled_10(" [profile 1]", region=2),
        {**TENSORRT_10["Layers"][0], "Name": "copy [profile 1]"},
        {**TENSORRT_10["Layers"][0], "Name": "copy"},
    ]
    first, second = split_profiles(parse_inspection(json.dumps(both)), 2)
    assert [layer.region for layer in first] == [0, 0, 1, 1, None]
    assert [layer.region for layer in second] == [2, 2, None]


def test_unmarked_regions_are_dealt_out_evenly_or_not_at_all():
    layers = parse_inspection(json.dumps([*compiled_10(region=0), *compiled_10(region=1)]))
    assert [len(part) for part in split_profiles(layers, 2)] == [2, 2]
    with pytest.raises(EngineError, match="2 compiled regions for 3 profiles"):
        split_profiles(layers, 3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"Layers": ["gemm", "kgen"], "Bindings": []}', "names of layers"),
        ('{"Bindings": []}', "lists no layers"),
        ("Layers: gemm", "not JSON"),
    ],
)
def test_an_inspector_that_tells_too_little_is_refused(text, said):
    with pytest.raises(EngineError, match=said) as error:
        parse_inspection(text)
    assert "deploy build" in error.value.remedy
