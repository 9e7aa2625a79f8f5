"""The floating-point type that a graph carries: cast it down for the engine, or up for the CPU.

TensorRT builds strongly typed networks, so the precision of an engine is the precision written
in its ONNX file. Inputs stay int64 and outputs FP32 whatever happens inside.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from export.errors import PrecisionError

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir


class FloatType(str, Enum):
    """A floating-point type that activations can be carried in."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"

    @property
    def numpy(self) -> np.dtype[Any]:
        """The numpy type."""
        import ml_dtypes
        import numpy as np

        types = {"fp32": np.float32, "fp16": np.float16, "bf16": ml_dtypes.bfloat16}
        numpy_type: np.dtype[Any] = np.dtype(types[self.value])
        return numpy_type

    @property
    def onnx(self) -> ir.DataType:
        """The ONNX element type."""
        import onnx_ir as ir

        names = {"fp32": "FLOAT", "fp16": "FLOAT16", "bf16": "BFLOAT16"}
        return ir.DataType[names[self.value]]

    @property
    def smallest_normal(self) -> float:
        """Smallest positive number of full precision; FP16: 6.1e-5."""
        import ml_dtypes

        return float(ml_dtypes.finfo(self.numpy).smallest_normal)  # type: ignore[no-untyped-call]

    @property
    def max_value(self) -> float:
        """Largest finite number; FP16: 65,504."""
        import ml_dtypes

        return float(ml_dtypes.finfo(self.numpy).max)  # type: ignore[no-untyped-call]


def cast_floats(
    model: ir.Model, target: FloatType, wide: frozenset[ir.Value] = frozenset()
) -> None:
    """Make a graph carry `target` wherever it carries another floating-point type, in place.

    Constants, scales and Cast targets change; 8-bit codes and integers do not. Outputs stay FP32.

    Args:
        model: Any graph of this toolchain.
        target: The type.
        wide: Values of an FP32 graph that stay FP32. What computes or reads one does so in FP32.

    Raises:
        PrecisionError: A constant does not fit the type.
    """
    import onnx_ir as ir

    casts = _fence(model, target, wide)
    floats = {FloatType.FP32.onnx, FloatType.FP16.onnx, FloatType.BF16.onnx} - {target.onnx}
    for value in model.graph.initializers.values():
        if value.dtype in floats and value.const_value is not None and value not in casts.fp32:
            value.const_value = _cast_tensor(value.name or "", value.const_value, target)
            # A type of its own: values may share one, and some of them may stay FP32.
            value.type = ir.TensorType(target.onnx)
    for node in model.graph:
        to = node.attributes.get("to")
        if (
            node.op_type == "Cast"
            and to is not None
            and ir.DataType(to.as_int()) in floats
            and node not in casts.nodes
        ):
            node.attributes["to"] = ir.AttrInt64("to", target.onnx.value)
        for output in node.outputs:
            if output.dtype in floats and output not in casts.fp32:
                output.type = ir.TensorType(target.onnx)
    _keep_fp32_outputs(model, target)


@dataclass
class _Fence:
    """What stays FP32, and the casts at its border."""

    fp32: set[ir.Value] = field(default_factory=set)
    nodes: set[ir.Node] = field(default_factory=set)


def _fence(model: ir.Model, target: FloatType, wide: frozenset[ir.Value]) -> _Fence:
    """Put casts around the nodes that compute or read a wide value."""
    fence = _Fence(set(wide))
    raised: dict[ir.Value, ir.Value] = {}
    inside = [node for node in model.graph if wide.intersection((*node.inputs, *node.outputs))]
    for node in inside:
        for index, value in enumerate(node.inputs):
            if value is None or value in fence.fp32 or value.dtype is not FloatType.FP32.onnx:
                continue
            if value.is_initializer() and all(use.node in inside for use in value.uses()):
                fence.fp32.add(value)
                continue
            if value not in raised:
                raised[value] = _raise(model, node, value, fence)
            node.replace_input_with(index, raised[value])
        for output in node.outputs:
            if output not in wide and output.dtype is FloatType.FP32.onnx:
                _lower(model, node, output, target, fence, frozenset(inside))
    return fence


def _raise(model: ir.Model, node: ir.Node, value: ir.Value, fence: _Fence) -> ir.Value:
    """An FP32 copy of a constant, or an FP32 cast of a computed value."""
    import onnx_ir as ir

    if value.const_value is not None:
        copy = ir.Value(
            name=f"{value.name}.fp32",
            shape=value.shape,
            type=value.type,
            const_value=value.const_value,
        )
        model.graph.register_initializer(copy)
        fence.fp32.add(copy)
        return copy
    cast = _cast_node(value, FloatType.FP32, f"{value.name}.fp32")
    model.graph.insert_before(node, cast)
    fence.fp32.add(cast.outputs[0])
    fence.nodes.add(cast)
    return cast.outputs[0]


def _lower(
    model: ir.Model,
    node: ir.Node,
    output: ir.Value,
    target: FloatType,
    fence: _Fence,
    inside: frozenset[ir.Node],
) -> None:
    """Let everybody outside of the fence read a cast of what an FP32 node computes."""
    fence.fp32.add(output)
    uses = [use for use in output.uses() if use.node not in inside]
    if not uses:
        return
    cast = _cast_node(output, target, f"{output.name}.{target.value}")
    for use in uses:
        use.node.replace_input_with(use.idx, cast.outputs[0])
    model.graph.insert_after(node, cast)
    fence.nodes.add(cast)


def _cast_node(value: ir.Value, to: FloatType, name: str) -> ir.Node:
    import onnx_ir as ir

    cast = ir.Node(
        "", "Cast", [value], [ir.AttrInt64("to", to.onnx.value)], name=f"{value.name}.Cast"
    )
    result = cast.outputs[0]
    result.name, result.shape = name, value.shape
    result.type = ir.TensorType(to.onnx)
    return cast


def _cast_tensor(name: str, tensor: ir.TensorProtocol, target: FloatType) -> ir.TensorProtocol:
    import numpy as np
    import onnx_ir as ir

    values = np.asarray(tensor.numpy(), np.float32)
    largest = max(-float(values.min(initial=0.0)), float(values.max(initial=0.0)))
    if not largest <= target.max_value:
        raise PrecisionError(
            f"constant '{name}' holds {largest:g}, which {target.value} cannot (its largest number "
            f"is {target.max_value:g})",
            "leave fp16 out of --precision, and build the others with --high-precision bf16",
        )
    return ir.tensor(values.astype(target.numpy))


def _keep_fp32_outputs(model: ir.Model, target: FloatType) -> None:
    import onnx_ir as ir

    for index, output in enumerate(model.graph.outputs):
        producer = output.producer()
        if output.dtype is not target.onnx or target is FloatType.FP32 or producer is None:
            continue
        name = output.name
        output.name = f"{name}.{target.value}"
        cast = ir.Node(
            "", "Cast", [output], [ir.AttrInt64("to", ir.DataType.FLOAT.value)], name=f"{name}.Cast"
        )
        result = cast.outputs[0]
        result.name, result.shape = name, output.shape
        result.type = ir.TensorType(ir.DataType.FLOAT)
        model.graph.insert_after(producer, cast)
        model.graph.outputs[index] = result
