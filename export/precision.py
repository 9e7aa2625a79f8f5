"""The floating-point type that a graph carries: cast it down for the engine, or up for the CPU.

TensorRT builds strongly typed networks, so the precision of an engine is the precision written
in its ONNX file. Inputs stay int64 and outputs FP32 whatever happens inside.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np

from export.errors import PrecisionError

if TYPE_CHECKING:
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


def cast_floats(model: ir.Model, target: FloatType) -> None:
    """Make a graph carry `target` wherever it carries another floating-point type, in place.

    Constants, scales and Cast targets change; 8-bit codes and integers do not. Outputs stay FP32.

    Raises:
        PrecisionError: A constant does not fit the type.
    """
    import onnx_ir as ir

    floats = {FloatType.FP32.onnx, FloatType.FP16.onnx, FloatType.BF16.onnx} - {target.onnx}
    for value in model.graph.initializers.values():
        if value.dtype in floats and value.const_value is not None:
            value.const_value = _cast_tensor(value.name or "", value.const_value, target)
            value.dtype = target.onnx
    for node in model.graph:
        to = node.attributes.get("to")
        if node.op_type == "Cast" and to is not None and ir.DataType(to.as_int()) in floats:
            node.attributes["to"] = ir.AttrInt64("to", target.onnx.value)
        for output in node.outputs:
            if output.dtype in floats:
                output.dtype = target.onnx
    _keep_fp32_outputs(model, target)


def _cast_tensor(name: str, tensor: ir.TensorProtocol, target: FloatType) -> ir.TensorProtocol:
    import onnx_ir as ir

    values = np.asarray(tensor.numpy(), np.float32)
    largest = float(np.abs(values).max(initial=0.0))
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
