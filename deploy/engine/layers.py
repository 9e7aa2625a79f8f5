"""Read the builder's layer listing, and hold it against what the Q/DQ graph promised.

A Q/DQ graph only asks for 8-bit kernels. Whether the builder gave them stands in its listing of
layers, which it logs even where there is no GPU.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deploy.engine.profiles import Profile
from deploy.errors import EngineError
from export.qdq import graph_sites
from export.sites import CONTEXT, SCORES, SiteKind

if TYPE_CHECKING:
    import onnx_ir as ir

_LAYER = re.compile(r"^Name: (?P<name>.*?), LayerType: (?P<type>[^,]*), ", re.MULTILINE)
_SECTION = r"{}: \[(.*?)\](?=, (?:{}): )"
_INPUTS = re.compile(_SECTION.format("Inputs", "Constants"))
_CONSTANTS = re.compile(_SECTION.format("Constants", "Outputs"))
_OUTPUTS = re.compile(_SECTION.format("Outputs", "TacticName"))
_DATATYPE = re.compile(r"Datatype: (\w+)")
_ONNX_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
# Compiled regions number their layers; every profile is a region of its own.
_REGION = re.compile(r"_myl(\d+)_\d+$")

# The builder's names of the 8-bit types, by the ONNX type that a site was quantized to.
_BUILDER_TYPES = {"FLOAT8E4M3FN": "FP8", "INT8": "Int8"}

# Element-wise kernels are listed with the MatMul whose epilogue they compute, and multiply nothing.
_MULTIPLYING_TYPES = frozenset({"gemm", "runtime_fusion"})


@dataclass(frozen=True)
class Layer:
    """One layer of an engine.

    Attributes:
        name: The builder's name for it.
        type: The builder's kind: gemm, kgen (generated kernel), runtime_fusion, …
        region: Number of the compiled region it belongs to; None outside of regions.
        inputs: Data types of its inputs, as the builder writes them (FP8, Int8, Half, Float, …).
        constants: Data types of its constants.
        outputs: Data types of its outputs.
        onnx_nodes: Names of the ONNX nodes it was fused from.
    """

    name: str
    type: str
    region: int | None
    inputs: tuple[str, ...]
    constants: tuple[str, ...]
    outputs: tuple[str, ...]
    onnx_nodes: frozenset[str]


@dataclass(frozen=True)
class ExpectedFusion:
    """What a graph promises the builder.

    Attributes:
        gemms: Modules whose MatMul has two quantized operands.
        attentions: Every attention module.
        quantized_attentions: Those of them whose operands are quantized.
        datatype: The builder's name of the 8-bit type; None where nothing is quantized.
    """

    gemms: tuple[str, ...]
    attentions: tuple[str, ...]
    quantized_attentions: frozenset[str]
    datatype: str | None


@dataclass(frozen=True)
class ProfileFusion:
    """What became of a graph in one optimization profile.

    Attributes:
        target: Compute capability that was built for.
        profile: The optimization profile.
        layers: Number of layers.
        quantized_gemms: GEMMs that run in 8 bits; a merged Q/K/V GEMM counts as three.
        expected_gemms: GEMMs that have quantized operands in the graph.
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
    unfused: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether everything that was promised is there."""
        return not self.unfused


def parse_layers(log: Iterable[str]) -> tuple[Layer, ...]:
    """Find the layer listing among the builder's messages.

    Returns:
        The layers in order; empty where the builder listed none.
    """
    return tuple(
        _parse_layer(line) for message in log for line in message.splitlines() if _LAYER.match(line)
    )


def expected_fusion(model: ir.Model) -> ExpectedFusion:
    """Read off a graph, quantized or not, what the builder should make of it."""
    sites = graph_sites(model)
    by_name = {node.name: node for node in model.graph}
    gemms, datatypes = [], set()
    for module in (
        m for site in sites if site.kind is SiteKind.LINEAR_WEIGHT for m in site.modules
    ):
        codes = _codes(by_name[module])
        if codes is not None:
            gemms.append(module)
            datatypes.add(_BUILDER_TYPES[codes])
    attentions = tuple(site.modules[0] for site in sites if site.kind is SiteKind.ATTENTION_Q)
    codes_of = {module: _codes(by_name[f"{module}.{SCORES}"]) for module in attentions}
    datatypes |= {_BUILDER_TYPES[codes] for codes in codes_of.values() if codes is not None}
    return ExpectedFusion(
        gemms=tuple(gemms),
        attentions=attentions,
        quantized_attentions=frozenset(m for m, codes in codes_of.items() if codes is not None),
        datatype=datatypes.pop() if datatypes else None,
    )


def fusion_by_profile(
    layers: Sequence[Layer], expected: ExpectedFusion, profiles: Sequence[Profile], target: str
) -> tuple[ProfileFusion, ...]:
    """Hold the layers of each profile against what the graph promised.

    Raises:
        EngineError: The listing cannot be divided among the profiles.
    """
    regions = sorted({layer.region for layer in layers if layer.region is not None})
    if not regions or len(regions) % len(profiles):
        raise EngineError(
            f"the builder listed {len(regions)} compiled regions for {len(profiles)} profiles",
            "this TensorRT release lists layers in another way; compare `deploy doctor` with the "
            "versions in pyproject.toml",
        )
    per_profile = len(regions) // len(profiles)
    return tuple(
        _fusion(
            [
                layer
                for layer in layers
                if layer.region in regions[index * per_profile : (index + 1) * per_profile]
            ],
            expected,
            profile,
            target,
        )
        for index, profile in enumerate(profiles)
    )


def _fusion(
    layers: Sequence[Layer], expected: ExpectedFusion, profile: Profile, target: str
) -> ProfileFusion:
    gemms = {
        module
        for module in expected.gemms
        if any(_is_quantized_gemm(layer, module, expected.datatype) for layer in layers)
    }
    attentions = {
        module
        for module in expected.attentions
        if any(
            _is_fused_attention(
                layer,
                module,
                expected.datatype if module in expected.quantized_attentions else None,
            )
            for layer in layers
        )
    }
    return ProfileFusion(
        target=target,
        profile=profile,
        layers=len(layers),
        quantized_gemms=len(gemms),
        expected_gemms=len(expected.gemms),
        fused_attention=len(attentions),
        expected_attention=len(expected.attentions),
        unfused=tuple(
            module
            for module in (*expected.gemms, *expected.attentions)
            if module not in gemms | attentions
        ),
    )


def _is_quantized_gemm(layer: Layer, module: str, datatype: str | None) -> bool:
    return (
        layer.type in _MULTIPLYING_TYPES
        and module in layer.onnx_nodes
        and layer.inputs[:1] == (datatype,)
        and datatype in layer.constants
    )


def _is_fused_attention(layer: Layer, module: str, datatype: str | None) -> bool:
    """One kernel holds both MatMuls; in 8 bits, it reads q, k and v so."""
    both = {f"{module}.{SCORES}", f"{module}.{CONTEXT}"} <= layer.onnx_nodes
    return both and (datatype is None or layer.inputs.count(datatype) >= 3)


def _codes(node: ir.Node) -> str | None:
    """The 8-bit ONNX type that both operands of a MatMul are dequantized from, if they are."""
    types = set()
    for operand in node.inputs:
        producer = operand.producer() if operand is not None else None
        if producer is None or producer.op_type != "DequantizeLinear":
            return None
        codes = producer.inputs[0]
        zero_point = producer.inputs[2] if len(producer.inputs) > 2 else None
        value = zero_point if zero_point is not None else codes
        types.add(value.dtype.name if value is not None and value.dtype is not None else "")
    return types.pop() if len(types) == 1 else None


def _parse_layer(line: str) -> Layer:
    match = _LAYER.match(line)
    assert match is not None  # the caller has matched it
    region = _REGION.search(match["name"])
    return Layer(
        name=match["name"],
        type=match["type"],
        region=int(region[1]) if region else None,
        inputs=_datatypes(_INPUTS, line),
        constants=_datatypes(_CONSTANTS, line),
        outputs=_datatypes(_OUTPUTS, line),
        onnx_nodes=frozenset(_ONNX_NODE.findall(line)),
    )


def _datatypes(section: re.Pattern[str], line: str) -> tuple[str, ...]:
    found = section.search(line)
    return tuple(_DATATYPE.findall(found[1])) if found else ()
