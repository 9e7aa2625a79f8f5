"""What a graph promises the builder: which operations it asks for in 8 bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deploy.engine.layers import UNKNOWN
from export.architectures import Architecture
from export.onnx_export import METADATA_PREFIX
from export.qdq import graph_encoder
from export.sites import CONTEXT, SCORES, layer_names

if TYPE_CHECKING:
    import onnx_ir as ir

# Type names of a layer report, by the ONNX type of a tensor.
_ONNX_TYPES = {
    "FLOAT8E4M3FN": "fp8",
    "INT8": "int8",
    "FLOAT16": "fp16",
    "BFLOAT16": "bf16",
    "FLOAT": "fp32",
}


@dataclass(frozen=True)
class Operation:
    """A linear or an attention of the encoder, as the graph asks for it.

    Attributes:
        module: Torch module path.
        layer: Index of the encoder layer.
        role: What it is to the layer: qkv, attention, attention out, ffn in or ffn out.
        operands: The 8-bit type that each operand is dequantized from, None for one that is not
            quantized; `input` and `weight` of a linear, `q`, `k`, `p` and `v` of an attention.
        carried: Type of the results, which is that of everything not quantized.
        head_dim: Width of one head; None for a linear.
        heads: How many heads there are; None for a linear.
    """

    module: str
    layer: int
    role: str
    operands: Mapping[str, str | None]
    carried: str
    head_dim: int | None = None
    heads: int | None = None

    @property
    def quantized(self) -> str | None:
        """The 8-bit type of any operand; None where nothing is quantized."""
        return next((codes for codes in self.operands.values() if codes is not None), None)

    @property
    def matmuls(self) -> tuple[str, ...]:
        """Names of its MatMuls in the graph: a linear's one; QK^T and PV of an attention."""
        if self.head_dim is None:
            return (self.module,)
        return (f"{self.module}.{SCORES}", f"{self.module}.{CONTEXT}")


@dataclass(frozen=True)
class ExpectedFusion:
    """What a graph promises the builder.

    Attributes:
        linears: Every linear of the encoder, in order of execution.
        attentions: Every attention.
    """

    linears: tuple[Operation, ...]
    attentions: tuple[Operation, ...]

    @property
    def gemms(self) -> tuple[Operation, ...]:
        """The linears that have a quantized operand."""
        return tuple(linear for linear in self.linears if linear.quantized is not None)

    @property
    def operations(self) -> tuple[Operation, ...]:
        """All linears, then all attentions."""
        return (*self.linears, *self.attentions)


def expected_fusion(model: ir.Model) -> ExpectedFusion:
    """Read off a graph, quantized or not, what the builder should make of it.

    Raises:
        ExportError: The model was not exported by this toolchain.
    """
    architecture, layers = graph_encoder(model)
    shape = {
        name: int(model.metadata_props[f"{METADATA_PREFIX}{name}"])
        for name in ("head_dim", "heads")
    }
    nodes = {node.name: node for node in model.graph if node.name is not None}
    attentions = tuple(
        _attention(nodes, names.attention, index, shape)
        for index, names in enumerate(layer_names(architecture, layers))
    )
    linears = tuple(
        _linear(nodes, f"{architecture.layer.format(index)}.{path}", index, role)
        for index in range(layers)
        for path, role in _linear_roles(architecture).items()
    )
    return ExpectedFusion(linears, attentions)


def _linear_roles(architecture: Architecture) -> dict[str, str]:
    return {
        architecture.query: "qkv",
        architecture.key: "qkv",
        architecture.value: "qkv",
        architecture.attention_output: "attention out",
        architecture.ffn_in: "ffn in",
        architecture.ffn_out: "ffn out",
    }


def _linear(nodes: Mapping[str, ir.Node], module: str, layer: int, role: str) -> Operation:
    node = nodes[module]
    return Operation(
        module=module,
        layer=layer,
        role=role,
        operands={"input": _codes(node.inputs[0]), "weight": _codes(node.inputs[1])},
        carried=_type_name(node.outputs[0]),
    )


def _attention(
    nodes: Mapping[str, ir.Node], module: str, layer: int, shape: Mapping[str, int]
) -> Operation:
    scores, context = nodes[f"{module}.{SCORES}"], nodes[f"{module}.{CONTEXT}"]
    return Operation(
        module=module,
        layer=layer,
        role="attention",
        operands={
            "q": _codes(scores.inputs[0]),
            "k": _codes(scores.inputs[1]),
            "p": _codes(context.inputs[0]),
            "v": _codes(context.inputs[1]),
        },
        carried=_type_name(scores.outputs[0]),
        **shape,
    )


def _codes(operand: ir.Value | None) -> str | None:
    """The 8-bit type that an operand is dequantized from, if it is."""
    producer = operand.producer() if operand is not None else None
    if producer is None or producer.op_type != "DequantizeLinear":
        return None
    zero_point = producer.inputs[2] if len(producer.inputs) > 2 else None
    return _type_name(zero_point if zero_point is not None else producer.inputs[0])


def _type_name(value: ir.Value | None) -> str:
    if value is None or value.dtype is None:
        return UNKNOWN
    return _ONNX_TYPES.get(value.dtype.name, value.dtype.name.lower())
