"""Where a torch module takes shape: constants, values that are known, calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from deploy.errors import BackendError

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch
    from torch import Tensor, fx

_TORCH_NAMES = {
    "FLOAT": "float32",
    "FLOAT16": "float16",
    "BFLOAT16": "bfloat16",
    "FLOAT8E4M3FN": "float8_e4m3fn",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}


class Emitter:
    """A torch graph in the making.

    Attributes:
        graph: The graph.
        known: What an ONNX value is in it: a node, or for shapes, Python numbers.
    """

    def __init__(self) -> None:
        from torch import fx

        self.graph = fx.Graph()
        self.known: dict[ir.Value, Any] = {}
        self._constants: dict[Any, fx.Node] = {}
        self._contents: dict[str, Tensor] = {}

    def call(self, function: Callable[..., Any], *arguments: Any) -> fx.Node:
        """Add a call."""
        return self.graph.call_function(function, arguments)

    def tensor(self, value: ir.Value | None) -> Any:
        """A value as a tensor."""
        assert value is not None
        if value not in self.known:
            self.known[value] = self.constant(value, to_torch(value))
        return self.known[value]

    def numbers(self, value: ir.Value | None) -> Any:
        """A value that says a shape, axes or a position: Python numbers, or a node of them."""
        assert value is not None
        if value.const_value is not None:
            return value.const_value.numpy().tolist()
        return self.known[value]

    def constant(self, key: Any, content: Tensor) -> fx.Node:
        """A constant tensor; the same key is the same constant."""
        if key not in self._constants:
            name = f"constant_{len(self._constants)}"
            self._contents[name] = content
            self._constants[key] = self.graph.get_attr(name)
        return self._constants[key]

    def root(self, device: str) -> torch.nn.Module:
        """A module that holds the constants which the graph still reads, on a device."""
        import torch

        module = torch.nn.Module()
        for name in {node.target for node in self.graph.nodes if node.op == "get_attr"}:
            module.register_buffer(str(name), self._contents[str(name)].to(device))
        return module


def to_torch(value: ir.Value) -> Tensor:
    """A constant as torch has it."""
    import numpy as np
    import torch

    constant = value.const_value
    assert constant is not None
    dtype = torch_type(constant.dtype)
    array = np.ascontiguousarray(constant.numpy()).reshape(tuple(constant.shape))
    # torch takes no array of a type that numpy itself does not have: by way of its bytes.
    if dtype in {torch.float8_e4m3fn, torch.bfloat16}:
        bits = array.view(np.int8 if array.itemsize == 1 else np.int16)
        return torch.from_numpy(bits.copy()).view(dtype)
    return torch.from_numpy(array.copy())


def torch_type(dtype: ir.DataType) -> torch.dtype:
    """The torch type of an ONNX type.

    Raises:
        BackendError: No exported graph has it.
    """
    import torch

    name = _TORCH_NAMES.get(dtype.name)
    if name is None:
        raise BackendError(
            f"the torch backend has no element type {dtype.name}",
            "use --backend onnxruntime, or export the model with `deploy build`",
        )
    found: torch.dtype = getattr(torch, name)
    return found
