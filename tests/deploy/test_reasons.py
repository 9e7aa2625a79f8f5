"""Every reason, provoked in a real engine on either side of its limit."""

from __future__ import annotations

from pathlib import Path

import pytest
from checkpoints import _CONFIGS
from graphs import Exported, export_random, strip_qdq

from deploy.engine.builder import EngineSpec, Flavour, build_engine, installed_flavours
from deploy.engine.expected import Operation, expected_fusion
from deploy.engine.fusion import fusion_by_profile
from deploy.engine.layers import parse_layers
from deploy.engine.profiles import Profile, Shape
from deploy.engine.reasons import NO_KNOWN_REASON, why_unfused
from export.onnx_file import read_onnx
from export.precision import FloatType
from export.recipe import PRESETS

pytestmark = pytest.mark.skipif(
    Flavour.TENSORRT_RTX not in installed_flavours(),
    reason="needs tensorrt-rtx: pip install tensorrt-rtx-cu13",
)

TARGETS = ("sm89", "sm120")
ATTENTION = "bert.encoder.layer.0.attention.self"
FFN_OUT = "bert.encoder.layer.0.output.dense"


def static(*sequences: int) -> tuple[Profile, ...]:
    return tuple(dynamic(sequence, sequence) for sequence in sequences)


def dynamic(shortest: int, longest: int) -> Profile:
    return Profile(Shape(1, shortest), Shape(4, longest), Shape(4, longest))


def reasons(onnx: Path, *profiles: Profile, target: str = "sm89") -> list[set[str]]:
    """Why anything is unfused, by profile; an empty set where all is."""
    built = build_engine(EngineSpec(onnx, Flavour.TENSORRT_RTX, profiles, target))
    expected = expected_fusion(read_onnx(onnx))
    return [
        {each.reason for each in fusion.unfused}
        for fusion in fusion_by_profile(parse_layers(built.log), expected, profiles, target)
    ]


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Exported:
    """One layer of head dim 64, with room for 640 tokens."""
    with pytest.MonkeyPatch.context() as patch:
        config = _CONFIGS["bert"]
        patch.setitem(
            _CONFIGS, "bert", lambda **sizes: config(**{**sizes, "max_position_embeddings": 700})
        )
        exported = export_random(tmp_path_factory.mktemp("bert"), hidden=128, layers=1)
    for name in ("fp8", "int8"):
        exported.derive(name, PRESETS[name])
        exported.derive(f"{name} bf16", PRESETS[name], FloatType.BF16)
    exported.derive("fp16")
    return exported


@pytest.mark.parametrize("target", TARGETS)
def test_fp8_attention_needs_32_tokens_at_its_shortest(bert, target):
    profiles = (*static(16, 31, 32, 640), dynamic(16, 64), dynamic(32, 640))
    assert reasons(bert["fp8"], *profiles, target=target) == [
        {"sequence 16: FP8 attention fuses from 32 tokens"},
        {"sequence 31: FP8 attention fuses from 32 tokens"},
        set(),
        set(),
        {"dynamic sequence 16 to 64: FP8 attention fuses from 32 tokens, the shortest counts"},
        set(),
    ]


@pytest.mark.parametrize("target", TARGETS)
def test_int8_attention_takes_512_tokens_at_its_longest(bert, target):
    profiles = (*static(8, 512, 513), dynamic(1, 512), dynamic(32, 640))
    assert reasons(bert["int8"], *profiles, target=target) == [
        set(),
        set(),
        {"sequence 513: INT8 attention fuses up to 512"},
        set(),
        {"sequence 640: INT8 attention fuses up to 512"},
    ]


@pytest.mark.parametrize("target", TARGETS)
def test_int8_attention_is_lost_in_bf16_and_fp8_is_not(bert, target):
    (lost,) = reasons(bert["int8 bf16"], *static(64), target=target)
    assert lost == {"bf16 around it: INT8 attention fuses with fp16 or fp32 only"}
    assert reasons(bert["fp8 bf16"], *static(64), target=target) == [set()]


def test_fp32_attention_never_fuses_and_fp16_does(bert):
    (lost,) = reasons(bert["fp32"], *static(64))
    assert lost == {"fp32: attention fuses in fp16, bf16 or 8 bits only"}
    assert reasons(bert["fp16"], *static(64)) == [set()]


@pytest.mark.parametrize("name", ["fp8", "int8"])
@pytest.mark.parametrize(
    ("left_out", "said"), [("qkv", "only its softmax output (p)"), ("v", "only its q, k, p")]
)
def test_attention_is_quantized_whole_or_not_at_all(bert, name, left_out, said):
    sites = [f"{ATTENTION}.{role}" for role in left_out]
    torn = strip_qdq(bert[name], f"{name} without {left_out}", *sites)
    ((lost,),) = reasons(torn, *static(64))
    assert lost == f"{said} is quantized: all of q, k, p and v, or none"


@pytest.mark.parametrize("name", ["fp8", "int8"])
@pytest.mark.parametrize(("left_out", "kept"), [("weight", "input"), ("input", "weight")])
def test_a_gemm_needs_both_operands(bert, name, left_out, kept):
    torn = strip_qdq(bert[name], f"{name} without {left_out}", f"{FFN_OUT}.{left_out}")
    ((lost,),) = reasons(torn, *static(64))
    assert lost == f"only its {kept} is quantized: a GEMM needs both operands"


INT8_WIDTHS = "INT8 attention fuses for 16, 32 and 64"
TOO_WIDE = "attention fuses up to 256"


@pytest.mark.parametrize(
    ("head_dim", "expected"),
    [
        (8, {"fp8": None, "fp16": "attention fuses from 9"}),
        (24, {"fp8": None, "int8": INT8_WIDTHS, "fp16": None}),
        (256, {"fp8": None, "fp16": None}),
        (272, {"fp8": TOO_WIDE, "fp16": TOO_WIDE}),
    ],
)
def test_head_dims(tmp_path, head_dim, expected):
    exported = export_random(tmp_path, hidden=2 * head_dim, layers=1)
    for name, said in expected.items():
        onnx = exported.derive(name, PRESETS.get(name))
        (lost,) = reasons(onnx, *static(64))
        assert lost == (set() if said is None else {f"head dim {head_dim}: {said}"}), name


def test_a_single_head_is_not_fused(tmp_path):
    exported = export_random(tmp_path, hidden=32, heads=1, layers=1)
    for name in ("fp8", "fp16"):
        (lost,) = reasons(exported.derive(name, PRESETS.get(name)), *static(64))
        assert lost == {"one head: attention fuses from two"}


def attention(head_dim: int = 64, **codes: str | None) -> Operation:
    operands = {**dict.fromkeys("qkpv"), **codes}
    return Operation("m", 0, "attention", operands, "fp16", head_dim)


def test_what_no_rule_explains_is_said_to_be_unexplained():
    fp8 = dict.fromkeys("qkpv", "fp8")
    assert why_unfused(attention(**fp8), dynamic(64, 64)) == NO_KNOWN_REASON
    assert why_unfused(attention(), dynamic(64, 64)) == NO_KNOWN_REASON
    linear = Operation("m", 0, "ffn in", {"input": "fp8", "weight": "fp8"}, "fp16")
    assert why_unfused(linear, dynamic(16, 64)) == NO_KNOWN_REASON


def test_all_reasons_are_said_at_once():
    said = why_unfused(attention(p="int8", head_dim=128), dynamic(16, 640))
    assert [part.partition(":")[0] for part in said.split("; ")] == [
        "only its softmax output (p) is quantized",
        "sequence 640",
        "head dim 128",
    ]


def test_what_only_documentation_says_comes_after_what_was_measured():
    fp8 = dict.fromkeys("qkpv", "fp8")
    assert "documents" in why_unfused(attention(24, **fp8), dynamic(64, 64))
    assert why_unfused(attention(24, **fp8), dynamic(16, 16)).startswith("sequence 16")
