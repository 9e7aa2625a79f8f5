"""Groups of ONNX nodes that torch computes at once: linears, and attention.

Read off the graph before it is converted. A group is complete or it is not there: what does not
match stays node by node.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir


_RESHAPING = frozenset({"Reshape", "Transpose"})

# Tensor cores take tiles of these widths.
_HEAD_DIMS = frozenset({16, 32, 64, 128})


@dataclass(frozen=True)
class Linear:
    """A MatMul with a constant, and the bias that is added to it.

    Attributes:
        matmul: The MatMul.
        weight: Its constant as stored, [K, N]: floating point, or the codes ahead of a
            DequantizeLinear.
        weight_scale: Scale of the codes, [] or [N]; None where the weight is not quantized.
        bias: [N].
        output: What the linear computes, bias included.
    """

    matmul: ir.Node
    weight: ir.Value
    weight_scale: ir.Value | None
    bias: ir.Value
    output: ir.Value


@dataclass(frozen=True)
class LinearGroup:
    """Linears of one input, one type of weight: one GEMM over all their channels.

    Attributes:
        linears: In order; query, key and value, or a single one.
        input: What they read: floating point, or 8-bit codes where `input_scale` is set.
        input_scale: Scale of the codes, [].
    """

    linears: tuple[Linear, ...]
    input: ir.Value
    input_scale: ir.Value | None

    @property
    def nodes(self) -> tuple[ir.Node, ...]:
        """All nodes that the group stands for, the first of them first."""
        matmuls = tuple(linear.matmul for linear in self.linears)
        return matmuls + tuple(_producer(linear.output) for linear in self.linears)


@dataclass(frozen=True)
class Epilogue:
    """GELU and the quantization after it, which a linear's kernel can do on its result.

    Attributes:
        gelu: The GELU.
        quantize: The QuantizeLinear.
    """

    gelu: ir.Node
    quantize: ir.Node


@dataclass(frozen=True)
class Attention:
    """QK^T, mask, softmax and PV.

    Attributes:
        q: [batch, heads, sequence, head_dim].
        k_transposed: [batch, heads, head_dim, sequence].
        v: As q.
        mask: What is added to the scores.
        nodes: The nodes from QK^T to PV; PV is the last.
        drops: Name of the Q/DQ on the softmax output that is left out; None where there is none.
    """

    q: ir.Value
    k_transposed: ir.Value
    v: ir.Value
    mask: ir.Value
    nodes: tuple[ir.Node, ...]
    drops: str | None


@dataclass(frozen=True)
class QuantizedAttention:
    """Query, key and value projections and their attention, in 8 bits from end to end.

    Attributes:
        group: The projections, in this order.
        attention: The attention.
        scales: Of q, k, the softmax output, v, and the result, each [].
        heads: Number of heads.
        nodes: All nodes that it stands for; PV is `attention.nodes[-1]`.
        codes: The result's codes, [batch, sequence, hidden].
    """

    group: LinearGroup
    attention: Attention
    scales: tuple[ir.Value, ir.Value, ir.Value, ir.Value, ir.Value]
    heads: int
    nodes: tuple[ir.Node, ...]
    codes: ir.Value


def find_linears(model: ir.Model) -> tuple[LinearGroup, ...]:
    """Every group of linears, in the order of their first nodes."""
    groups: dict[tuple[object, ...], list[Linear]] = {}
    inputs: dict[tuple[object, ...], tuple[ir.Value, ir.Value | None]] = {}
    for node in model.graph:
        linear = _linear(node) if node.op_type == "MatMul" else None
        if linear is None:
            continue
        read = _defined(node.inputs[0])
        codes, scale = _dequantized(read)
        if linear.weight_scale is None or codes is None or scale is None or not _scalar(scale):
            # One operand in 8 bits is no 8-bit GEMM: the node stays as it is.
            if linear.weight_scale is not None:
                continue
            codes, scale = read, None
        key = (codes, scale, linear.weight.dtype, linear.bias.dtype)
        groups.setdefault(key, []).append(linear)
        inputs[key] = (codes, scale)
    return tuple(LinearGroup(tuple(found), *inputs[key]) for key, found in groups.items())


def find_epilogue(linear: Linear) -> Epilogue | None:
    """GELU and quantization behind a linear, if that is what its result is for."""
    gelu = _only_consumer(linear.output)
    if gelu is None or gelu.op_type != "Gelu":
        return None
    quantize = _only_consumer(gelu.outputs[0])
    if quantize is None or quantize.op_type != "QuantizeLinear":
        return None
    return Epilogue(gelu, quantize)


def find_attentions(model: ir.Model) -> tuple[Attention, ...]:
    """Every attention whose scores are masked by an Add ahead of the softmax."""
    found = (_attention(node) for node in model.graph if node.op_type == "Softmax")
    return tuple(attention for attention in found if attention is not None)


def find_quantized_attentions(
    groups: Sequence[LinearGroup], attentions: Sequence[Attention]
) -> tuple[QuantizedAttention, ...]:
    """The attentions whose every operand, and whose result, is quantized."""
    by_output = {linear.output: group for group in groups for linear in group.linears}
    found = (_quantized_attention(attention, by_output) for attention in attentions)
    return tuple(each for each in found if each is not None)


def _quantized_attention(
    attention: Attention, by_output: Mapping[ir.Value, LinearGroup]
) -> QuantizedAttention | None:
    operands = [
        _operand(value, by_output) for value in (attention.q, attention.k_transposed, attention.v)
    ]
    p = next((node for node in attention.nodes if node.op_type == "QuantizeLinear"), None)
    after = _reshaping(attention.nodes[-1].outputs[0])
    if None in operands or p is None or after is None or after[-1].op_type != "QuantizeLinear":
        return None
    q, k, v = (operand for operand in operands if operand is not None)
    group = by_output[q.output]
    mask, shape = attention.mask.shape, attention.q.shape
    if any(by_output[each.output] is not group for each in (k, v)) or len(group.linears) != 3:
        return None
    if mask is None or list(mask)[1:3] != [1, 1] or shape is None:
        return None
    heads, head_dim = shape[1], shape[3]
    if not isinstance(heads, int) or head_dim not in _HEAD_DIMS:
        return None
    ordered = sorted(
        group.linears,
        key=lambda linear: [q.output, k.output, v.output].index(linear.output),
    )
    return QuantizedAttention(
        group=LinearGroup(tuple(ordered), group.input, group.input_scale),
        attention=attention,
        scales=(q.scale, k.scale, _defined(p.inputs[1]), v.scale, _defined(after[-1].inputs[1])),
        heads=heads,
        nodes=(*group.nodes, *q.nodes, *k.nodes, *v.nodes, *attention.nodes, *after),
        codes=after[-1].outputs[0],
    )


@dataclass(frozen=True)
class _Operand:
    """An operand of attention: the linear's output it comes from, its scale, the nodes between."""

    output: ir.Value
    scale: ir.Value
    nodes: tuple[ir.Node, ...]


def _operand(value: ir.Value, by_output: Mapping[ir.Value, LinearGroup]) -> _Operand | None:
    nodes = []
    for expected in ("DequantizeLinear", "QuantizeLinear"):
        node = value.producer()
        if node is None or node.op_type != expected or _only_consumer(node.outputs[0]) is None:
            return None
        nodes.append(node)
        value = _defined(node.inputs[0])
    scale = _defined(nodes[-1].inputs[1])
    while value not in by_output:
        node = value.producer()
        if node is None or node.op_type not in _RESHAPING or _only_consumer(value) is None:
            return None
        nodes.append(node)
        value = _defined(node.inputs[0])
    return _Operand(value, scale, tuple(nodes)) if _only_consumer(value) is not None else None


def _reshaping(value: ir.Value) -> list[ir.Node] | None:
    """The nodes that only reshape a value, and the one that reads it then."""
    nodes: list[ir.Node] = []
    node = _only_consumer(value)
    while node is not None:
        nodes.append(node)
        if node.op_type not in _RESHAPING:
            return nodes
        node = _only_consumer(node.outputs[0])
    return None


def _linear(matmul: ir.Node) -> Linear | None:
    stored, scale = _dequantized(_defined(matmul.inputs[1]))
    weight = stored if stored is not None else _defined(matmul.inputs[1])
    add = _only_consumer(matmul.outputs[0])
    if weight.const_value is None or len(weight.const_value.shape) != 2:
        return None
    if add is None or add.op_type != "Add":
        return None
    bias = next((value for value in add.inputs if value is not matmul.outputs[0]), None)
    if bias is None or bias.const_value is None or len(bias.const_value.shape) != 1:
        return None
    return Linear(matmul, weight, scale, bias, add.outputs[0])


def _attention(softmax: ir.Node) -> Attention | None:
    add = _defined(softmax.inputs[0]).producer()
    if add is None or add.op_type != "Add":
        return None
    scores, mask = (_defined(value) for value in add.inputs)
    first = scores.producer()
    if first is None or first.op_type != "MatMul":
        return None
    nodes = [first, add, softmax]
    drops = None
    after = _only_consumer(softmax.outputs[0])
    while after is not None and after.op_type in {"QuantizeLinear", "DequantizeLinear"}:
        drops = drops or after.name
        nodes.append(after)
        after = _only_consumer(after.outputs[0])
    if after is None or after.op_type != "MatMul" or after.inputs[0] is not nodes[-1].outputs[0]:
        return None
    q, k_transposed = (_defined(value) for value in first.inputs)
    return Attention(
        q=q,
        k_transposed=k_transposed,
        v=_defined(after.inputs[1]),
        mask=mask,
        nodes=(*nodes, after),
        drops=drops,
    )


def _dequantized(value: ir.Value) -> tuple[ir.Value | None, ir.Value | None]:
    """The codes and the scale that a value is dequantized from."""
    producer = value.producer()
    if producer is None or producer.op_type != "DequantizeLinear":
        return None, None
    return _defined(producer.inputs[0]), _defined(producer.inputs[1])


def _scalar(value: ir.Value) -> bool:
    return value.const_value is not None and value.const_value.size == 1


def _only_consumer(value: ir.Value) -> ir.Node | None:
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 else None


def _producer(value: ir.Value) -> ir.Node:
    node = value.producer()
    assert node is not None  # it is the output of the Add that was matched
    return node


def _defined(value: ir.Value | None) -> ir.Value:
    assert value is not None  # none of the operators matched here has an optional input
    return value
