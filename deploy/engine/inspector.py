"""Read the layers of a plan from TensorRT's engine inspector.

The inspector says of a finished plan what the builder logs while it makes one; it needs the GPU
that the plan runs on. Its JSON differs between releases: up to 10.10 a tensor has one
"Format/Datatype" and constants are not listed, later it has "Datatype" and "Format", and constants
are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from deploy.engine.builder import Flavour, import_flavour
from deploy.engine.layers import (
    UNKNOWN,
    Layer,
    datatype_name,
    onnx_nodes,
    profile_of,
    region_of,
)
from deploy.errors import EngineError

_TENSORS = ("Inputs", "Constants", "Outputs")

_REBUILD = "build it with `deploy build`, which asks TensorRT for detailed layer information"


def inspect_plan(plan: bytes, flavour: Flavour) -> tuple[Layer, ...]:
    """Read the layers of a plan that this process has built.

    Raises:
        EngineError: The plan cannot be loaded on this machine, or tells nothing of its layers.
    """
    trt = import_flavour(flavour)
    runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise EngineError(
            f"{flavour.value} {trt.__version__} cannot load the plan",
            "use the machine whose GPU and TensorRT the plan was built for",
        )
    inspector = engine.create_engine_inspector()
    return parse_inspection(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def parse_inspection(text: str) -> tuple[Layer, ...]:
    """Read what `IEngineInspector.get_engine_information` returns as JSON.

    Returns:
        The layers in order, as `parse_layers` gives them for the builder's log.

    Raises:
        EngineError: It is not such JSON, or holds the names of layers only.
    """
    try:
        content = json.loads(text)
    except ValueError as error:
        raise EngineError(f"the engine inspector's answer is not JSON: {error}", _REBUILD) from None
    # trtexec's --exportLayerInfo writes the bare list.
    layers = content.get("Layers") if isinstance(content, dict) else content
    if not isinstance(layers, list):
        raise EngineError("the engine inspector lists no layers", _REBUILD)
    if not all(isinstance(layer, dict) for layer in layers):
        raise EngineError("the engine inspector tells names of layers and no types", _REBUILD)
    return tuple(_layer(layer) for layer in layers)


def _layer(layer: Mapping[str, Any]) -> Layer:
    name = str(layer.get("Name", ""))
    tensors = (tensor for key in _TENSORS for tensor in _tensors(layer, key))
    marks = map(profile_of, (name, *(str(tensor.get("Name", "")) for tensor in tensors)))
    return Layer(
        name=name,
        type=str(layer.get("LayerType", UNKNOWN)),
        region=region_of(name),
        profile=next((mark for mark in marks if mark is not None), None),
        inputs=_datatypes(layer, "Inputs"),
        constants=_datatypes(layer, "Constants") + _weights(layer),
        outputs=_datatypes(layer, "Outputs"),
        onnx_nodes=onnx_nodes(str(layer.get("Metadata", ""))),
    )


def _tensors(layer: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    return [tensor for tensor in layer.get(key) or () if isinstance(tensor, dict)]


def _datatypes(layer: Mapping[str, Any], key: str) -> tuple[str, ...]:
    return tuple(
        datatype_name(str(tensor.get("Datatype", tensor.get("Format/Datatype", ""))))
        for tensor in _tensors(layer, key)
    )


def _weights(layer: Mapping[str, Any]) -> tuple[str, ...]:
    """Types of a layer outside of compiled regions, which has fields of its own for them."""
    fields = (layer.get("Weights"), layer.get("Bias"))
    return tuple(
        datatype_name(str(field["Type"]))
        for field in fields
        if isinstance(field, dict) and field.get("Count") and "Type" in field
    )
