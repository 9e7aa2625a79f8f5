"""Which torch function stands for which ONNX operator, and how its inputs and attributes go in."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from deploy.engine import torch_ops
from deploy.engine.torch_emitter import Emitter, torch_type
from deploy.errors import BackendError

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch
    from torch import Tensor

_Handler = Callable[[Emitter, "ir.Node"], Any]


def _attributes(node: ir.Node, **expected: Any) -> None:
    """Refuse an attribute whose value no exported graph has; absent ones have their default."""
    for name, value in expected.items():
        found = node.attributes.get(name)
        if found is not None and found.value != value:
            raise BackendError(
                f"the torch backend knows {node.op_type} with {name}={value} only, not "
                f"{found.value} (node '{node.name}')",
                "use --backend onnxruntime, or export the model with `deploy build`",
            )


def _integer(node: ir.Node, name: str, default: int) -> int:
    found = node.attributes.get(name)
    return default if found is None else int(found.value)


def _elementwise(function: Callable[..., Any]) -> _Handler:
    def handle(emitter: Emitter, node: ir.Node) -> Any:
        operands = [emitter.tensor(node.inputs[index]) for index in range(len(node.inputs))]
        return emitter.call(function, *operands)

    return handle


def _cast(emitter: Emitter, node: ir.Node) -> Any:
    import onnx_ir as ir

    dtype = torch_type(ir.DataType(node.attributes["to"].value))
    return emitter.call(_to, emitter.tensor(node.inputs[0]), dtype)


def _to(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(dtype)


def _quantize(emitter: Emitter, node: ir.Node) -> Any:
    zero_point = node.inputs[2]
    assert zero_point is not None
    assert zero_point.dtype is not None
    dtype = torch_type(zero_point.dtype)
    return emitter.call(
        torch_ops.quantize, emitter.tensor(node.inputs[0]), emitter.tensor(node.inputs[1]), dtype
    )


def _dequantize(emitter: Emitter, node: ir.Node) -> Any:
    axis = _integer(node, "axis", 1)
    return emitter.call(
        torch_ops.dequantize, emitter.tensor(node.inputs[0]), emitter.tensor(node.inputs[1]), axis
    )


def _shape(emitter: Emitter, node: ir.Node) -> Any:
    end = node.attributes.get("end")
    return emitter.call(
        torch_ops.shape_of,
        emitter.tensor(node.inputs[0]),
        _integer(node, "start", 0),
        None if end is None else int(end.value),
    )


def _concat(emitter: Emitter, node: ir.Node) -> Any:
    # Exported encoders join shapes, and nothing else.
    parts = [emitter.numbers(node.inputs[index]) for index in range(len(node.inputs))]
    return emitter.call(torch_ops.join, *parts)


def _with_numbers(function: Callable[..., Any]) -> _Handler:
    """A tensor, then inputs that are numbers."""

    def handle(emitter: Emitter, node: ir.Node) -> Any:
        numbers = [emitter.numbers(node.inputs[index]) for index in range(1, len(node.inputs))]
        return emitter.call(function, emitter.tensor(node.inputs[0]), *numbers)

    return handle


def _gather(emitter: Emitter, node: ir.Node) -> Any:
    indices = node.inputs[1]
    assert indices is not None
    constant = indices.const_value is not None and not indices.const_value.shape
    where = emitter.numbers(node.inputs[1]) if constant else emitter.tensor(node.inputs[1])
    axis = _integer(node, "axis", 0)
    return emitter.call(torch_ops.gather, emitter.tensor(node.inputs[0]), where, axis)


def _gather_elements(emitter: Emitter, node: ir.Node) -> Any:
    axis = _integer(node, "axis", 0)
    indices = emitter.tensor(node.inputs[1])
    return emitter.call(torch_ops.gather_elements, emitter.tensor(node.inputs[0]), indices, axis)


def _gemm(emitter: Emitter, node: ir.Node) -> Any:
    _attributes(node, alpha=1.0, beta=1.0, transA=0)
    a, b = emitter.tensor(node.inputs[0]), emitter.tensor(node.inputs[1])
    c = emitter.tensor(node.inputs[2]) if len(node.inputs) > 2 else None
    return emitter.call(torch_ops.gemm, a, b, c, bool(_integer(node, "transB", 0)))


def _layer_norm(emitter: Emitter, node: ir.Node) -> Any:
    _attributes(node, axis=-1, stash_type=1)
    epsilon = node.attributes.get("epsilon")
    return emitter.call(
        torch_ops.layer_norm,
        *(emitter.tensor(node.inputs[index]) for index in range(3)),
        1e-5 if epsilon is None else float(epsilon.value),
    )


def _softmax(emitter: Emitter, node: ir.Node) -> Any:
    import torch

    return emitter.call(torch.softmax, emitter.tensor(node.inputs[0]), _integer(node, "axis", -1))


def _transpose(emitter: Emitter, node: ir.Node) -> Any:
    import torch

    order = tuple(node.attributes["perm"].value)
    return emitter.call(torch.permute, emitter.tensor(node.inputs[0]), order)


def _cumulative_sum(emitter: Emitter, node: ir.Node) -> Any:
    _attributes(node, reverse=0, exclusive=0)
    return emitter.call(
        torch_ops.cumulative_sum, emitter.tensor(node.inputs[0]), emitter.numbers(node.inputs[1])
    )


def _split(emitter: Emitter, node: ir.Node) -> Any:
    import torch

    count = len(node.outputs)
    _attributes(node, num_outputs=count)
    parts = emitter.call(
        torch.tensor_split, emitter.tensor(node.inputs[0]), count, _integer(node, "axis", 0)
    )
    return tuple(emitter.call(operator.getitem, parts, index) for index in range(count))


def _gelu(emitter: Emitter, node: ir.Node) -> Any:
    import torch

    _attributes(node, approximate="none")
    return emitter.call(torch.nn.functional.gelu, emitter.tensor(node.inputs[0]))


_HANDLERS: Mapping[str, _Handler] = {
    "Add": _elementwise(operator.add),
    "Cast": _cast,
    "Concat": _concat,
    "CumSum": _cumulative_sum,
    "DequantizeLinear": _dequantize,
    "Div": _elementwise(operator.truediv),
    "Equal": _elementwise(operator.eq),
    "Expand": _with_numbers(torch_ops.expand),
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "LayerNormalization": _layer_norm,
    "MatMul": _elementwise(operator.matmul),
    "Mul": _elementwise(operator.mul),
    "Not": _elementwise(operator.invert),
    "QuantizeLinear": _quantize,
    "Relu": _elementwise(torch_ops.relu),
    "Reshape": _with_numbers(torch_ops.reshape),
    "Shape": _shape,
    "Slice": _with_numbers(torch_ops.slice_axes),
    "Softmax": _softmax,
    "Split": _split,
    "Squeeze": _with_numbers(torch_ops.squeeze),
    "Sub": _elementwise(operator.sub),
    "Tanh": _elementwise(torch_ops.tanh),
    "Transpose": _transpose,
    "Unsqueeze": _with_numbers(torch_ops.unsqueeze),
}


def emit_node(emitter: Emitter, node: ir.Node) -> None:
    """Add what one ONNX node computes.

    Raises:
        BackendError: An operator, or an attribute of one, that no exported graph has.
    """
    handler = _HANDLERS.get(node.op_type)
    if handler is None or node.domain not in {"", "ai.onnx"}:
        raise BackendError(
            f"the torch backend has no operator '{node.domain or 'ai.onnx'}.{node.op_type}' "
            f"(node '{node.name}')",
            "use --backend onnxruntime, or export the model with `deploy build`",
        )
    results = handler(emitter, node)
    outputs = results if isinstance(results, tuple) else (results,)
    emitter.known.update(zip(node.outputs, outputs, strict=True))
