"""The layers of an engine, and how the builder's log lists them.

A Q/DQ graph only asks for 8-bit kernels. Whether the builder gave them stands in its listing of
layers, which it logs even where there is no GPU. `deploy.engine.inspector` reads the same layers
out of a plan.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from deploy.errors import EngineError

UNKNOWN = "unknown"

# The words that TensorRT has for a type: compiled regions write "Half", other layers hide it in a
# description of the memory layout, such as "Row major linear FP16 format".
_DATATYPES = {
    "fp8": "fp8",
    "e4m3": "fp8",
    "int8": "int8",
    "half": "fp16",
    "fp16": "fp16",
    "bfloat16": "bf16",
    "bf16": "bf16",
    "float": "fp32",
    "fp32": "fp32",
    "int32": "int32",
    "int64": "int64",
    "bool": "bool",
    "uint8": "uint8",
}

_LAYER = re.compile(r"^Name: (?P<name>.*?), LayerType: (?P<type>[^,]*), ", re.MULTILINE)
# Releases up to 10.10 list no constants. What follows the outputs depends on the layer's type.
_INPUTS = re.compile(r"Inputs: \[(.*?)\](?=, (?:Constants|Outputs): )")
_CONSTANTS = re.compile(r"Constants: \[(.*?)\](?=, Outputs: )")
_OUTPUTS = re.compile(r"Outputs: \[(.*?)\](?=, (?:TacticName|ParameterType|StreamId|Metadata): )")
_DATATYPE = re.compile(r"Datatype: ([^,}]+)")
_ONNX_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
# Compiled regions number their layers; every profile has regions of its own.
_REGION = re.compile(r"_myl(\d+)_\d+")
# The first profile carries no mark.
_PROFILE = re.compile(r"\[profile (\d+)\]")


@dataclass(frozen=True)
class Layer:
    """One layer of an engine.

    Attributes:
        name: The builder's name for it.
        type: The builder's kind: gemm, kgen (generated kernel), runtime_fusion, …
        region: Number of the compiled region it belongs to; None outside of regions.
        profile: Index of the optimization profile that it names; None where it names none, which
            says little: see `split_profiles`.
        inputs: Data types of its inputs: fp8, int8, fp16, bf16, fp32, int64, …
        constants: Data types of its constants, as far as they are listed.
        outputs: Data types of its outputs.
        onnx_nodes: Names of the ONNX nodes it was fused from.
    """

    name: str
    type: str
    region: int | None
    profile: int | None
    inputs: tuple[str, ...]
    constants: tuple[str, ...]
    outputs: tuple[str, ...]
    onnx_nodes: frozenset[str]


def parse_layers(log: Iterable[str]) -> tuple[Layer, ...]:
    """Find the layer listing among the builder's messages.

    Returns:
        The layers in order; empty where the builder listed none.
    """
    return tuple(
        _parse_layer(match, line)
        for message in log
        for line in message.split("\n")  # splitlines() would also split at \x1e, within metadata
        if (match := _LAYER.match(line))
    )


def split_profiles(layers: Sequence[Layer], count: int) -> tuple[tuple[Layer, ...], ...]:
    """Divide a listing among the optimization profiles.

    A profile's layers are those of the regions in which some layer names it; where none is named,
    regions are dealt out evenly, in order.

    Args:
        layers: All layers of an engine.
        count: Number of its profiles.

    Raises:
        EngineError: The listing cannot be divided so.
    """
    regions = sorted({layer.region for layer in layers if layer.region is not None})
    named = {
        layer.region: layer.profile
        for layer in layers
        if layer.region is not None and layer.profile is not None
    }
    if count > 1 and not named and regions and len(regions) % count == 0:
        each = len(regions) // count
        named = {region: index // each for index, region in enumerate(regions)}
    divided: tuple[list[Layer], ...] = tuple([] for _ in range(count))
    for layer in layers:
        own = layer.profile if layer.region is None else named.get(layer.region)
        if (own or 0) < count:
            divided[own or 0].append(layer)
    if not all(divided):
        raise EngineError(
            f"the builder listed {len(regions)} compiled regions for {count} profiles",
            "this TensorRT release lists layers in another way; compare `deploy doctor` with the "
            "versions in pyproject.toml",
        )
    return tuple(tuple(part) for part in divided)


def datatype_name(text: str) -> str:
    """The project's name of a type that TensorRT describes; "unknown" for one it does not show."""
    return next(
        (_DATATYPES[word] for word in re.findall(r"\w+", text.lower()) if word in _DATATYPES),
        UNKNOWN,
    )


def onnx_nodes(metadata: str) -> frozenset[str]:
    """Names of ONNX nodes in a layer's metadata; separators differ between releases."""
    return frozenset(_ONNX_NODE.findall(metadata))


def region_of(name: str) -> int | None:
    """Number of the compiled region that a layer's name tells."""
    found = _REGION.search(name)
    return int(found[1]) if found else None


def profile_of(text: str) -> int | None:
    """Index of the profile that a layer's text names."""
    found = _PROFILE.search(text)
    return int(found[1]) if found else None


def _parse_layer(match: re.Match[str], line: str) -> Layer:
    return Layer(
        name=match["name"],
        type=match["type"],
        region=region_of(match["name"]),
        profile=profile_of(line),
        inputs=_datatypes(_INPUTS, line),
        constants=_datatypes(_CONSTANTS, line),
        outputs=_datatypes(_OUTPUTS, line),
        onnx_nodes=onnx_nodes(line),
    )


def _datatypes(section: re.Pattern[str], line: str) -> tuple[str, ...]:
    found = section.search(line)
    return tuple(map(datatype_name, _DATATYPE.findall(found[1]))) if found else ()
