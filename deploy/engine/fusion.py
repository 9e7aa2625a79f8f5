"""Hold an engine's layers against what the Q/DQ graph promised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from deploy.engine.expected import ExpectedFusion, Operation
from deploy.engine.layers import UNKNOWN, Layer, split_profiles
from deploy.engine.profiles import Profile, Shape
from deploy.engine.reasons import why_unfused

_GEMM = "gemm"

# Element-wise kernels are listed with the MatMul whose epilogue they compute, and multiply nothing.
# `MatrixMultiply` is a GEMM outside of compiled regions.
MULTIPLYING_TYPES = frozenset({_GEMM, "runtime_fusion", "MatrixMultiply"})


@dataclass(frozen=True)
class FoundKernel:
    """How an engine computes an operation.

    Attributes:
        operation: What the graph asks for.
        layer: The layer that multiplies; the one of QK^T where an attention is in pieces, None
            where no layer names the operation.
        precision: The type that it multiplies in.
        fused: Whether it is one kernel, in 8 bits if the graph asks for that.
    """

    operation: Operation
    layer: Layer | None
    precision: str
    fused: bool


@dataclass(frozen=True)
class Unfused:
    """A module that did not become what the graph promised.

    Attributes:
        module: Torch module path.
        reason: Why, as far as known.
    """

    module: str
    reason: str


@dataclass(frozen=True)
class ProfileFusion:
    """What became of a graph in one optimization profile.

    Attributes:
        target: Compute capability that was built for.
        profile: The optimization profile.
        layers: Number of layers.
        quantized_gemms: GEMMs that run in 8 bits; a merged Q/K/V GEMM counts as three.
        expected_gemms: GEMMs that have a quantized operand in the graph.
        fused_attention: Attentions that are one kernel, in 8 bits where the graph says so.
        expected_attention: Attentions in the graph.
        unfused: Modules that were expected and not found.
    """

    target: str
    profile: Profile
    layers: int
    quantized_gemms: int
    expected_gemms: int
    fused_attention: int
    expected_attention: int
    unfused: tuple[Unfused, ...]

    @property
    def complete(self) -> bool:
        """Whether everything that was promised is there."""
        return not self.unfused


def fusion_by_profile(
    layers: Sequence[Layer], expected: ExpectedFusion, profiles: Sequence[Profile], target: str
) -> tuple[ProfileFusion, ...]:
    """Hold the layers of each profile against what the graph promised.

    Raises:
        EngineError: The listing cannot be divided among the profiles.
    """
    return tuple(
        _fusion(part, expected, profile, target)
        for part, profile in zip(split_profiles(layers, len(profiles)), profiles, strict=True)
    )


def find_kernel(layers: Sequence[Layer], operation: Operation) -> FoundKernel:
    """Find how the layers of one profile compute an operation."""
    find = _find_linear if operation.head_dim is None else _find_attention
    return find(layers, operation)


def profile_fusion_from_dict(plain: Mapping[str, Any]) -> ProfileFusion:
    """Take back what `asdict` made of a profile's fusion."""
    profile = Profile(*(Shape(**plain["profile"][name]) for name in ("min", "opt", "max")))
    unfused = tuple(Unfused(**each) for each in plain["unfused"])
    return ProfileFusion(**{**plain, "profile": profile, "unfused": unfused})


def fusion_to_dict(fusion: ProfileFusion) -> dict[str, Any]:
    """The counts of a profile, and its unfused modules with their reasons."""
    return {
        **fusion_counts(fusion),
        "unfused": [asdict(each) for each in fusion.unfused],
    }


def fusion_counts(fusion: ProfileFusion) -> dict[str, int]:
    """The counts of a profile."""
    return {
        "quantized_gemms": fusion.quantized_gemms,
        "expected_gemms": fusion.expected_gemms,
        "fused_attention": fusion.fused_attention,
        "expected_attention": fusion.expected_attention,
    }


def _fusion(
    layers: Sequence[Layer], expected: ExpectedFusion, profile: Profile, target: str
) -> ProfileFusion:
    gemms = [find_kernel(layers, gemm) for gemm in expected.gemms]
    attentions = [find_kernel(layers, attention) for attention in expected.attentions]
    return ProfileFusion(
        target=target,
        profile=profile,
        layers=len(layers),
        quantized_gemms=sum(gemm.fused for gemm in gemms),
        expected_gemms=len(gemms),
        fused_attention=sum(attention.fused for attention in attentions),
        expected_attention=len(attentions),
        unfused=tuple(
            Unfused(found.operation.module, why_unfused(found.operation, profile))
            for found in (*gemms, *attentions)
            if not found.fused
        ),
    )


def _find_linear(layers: Sequence[Layer], linear: Operation) -> FoundKernel:
    candidates = [
        layer
        for layer in layers
        if layer.type in MULTIPLYING_TYPES and linear.module in layer.onnx_nodes
    ]
    for layer in candidates:
        if _multiplies_in(layer, linear.quantized):
            return FoundKernel(linear, layer, str(linear.quantized), fused=True)
    other = candidates[0] if candidates else None
    # An 8-bit operand is cast up inside such a kernel.
    precision = UNKNOWN if other is None else linear.carried
    return FoundKernel(linear, other, precision, fused=linear.quantized is None)


def _multiplies_in(layer: Layer, datatype: str | None) -> bool:
    if layer.inputs[:1] != (datatype,):
        return False
    weights = layer.constants or layer.inputs[1:]
    # Releases that list no weights: a library GEMM has both operands of one type, whereas a
    # generated kernel may cast one of them.
    return datatype in weights if weights else layer.type == _GEMM


def _find_attention(layers: Sequence[Layer], attention: Operation) -> FoundKernel:
    scores = attention.matmuls[0]
    wanted = attention.quantized
    whole = [layer for layer in layers if layer.onnx_nodes.issuperset(attention.matmuls)]
    for layer in whole:
        # One kernel holds both MatMuls; in 8 bits, it reads q, k and v so.
        if wanted is None or layer.inputs.count(wanted) >= 3:
            return FoundKernel(attention, layer, wanted or attention.carried, fused=True)
    pieces = whole or [
        layer for layer in layers if scores in layer.onnx_nodes and layer.type in MULTIPLYING_TYPES
    ]
    first = pieces[0] if pieces else None
    precision = first.inputs[0] if first is not None and first.inputs else UNKNOWN
    return FoundKernel(attention, first, precision, fused=False)
