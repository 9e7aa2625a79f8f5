"""Between torch's CUDA tensors and a session's buffer, without the host."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from deploy.engine.buckets import check_out
from deploy.engine.cuda import Cuda
from deploy.engine.placement import ALIGNMENT, PlacedTensor
from deploy.engine.profiles import Shape

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def tensor_refusal(device: str) -> Callable[[Any], str | None]:
    """What `input_shape` asks: why an input is refused, if it is.

    Args:
        device: Where tensors must be, as torch calls it.
    """
    import torch

    expected = torch.device(device)

    def refusal(values: Any) -> str | None:
        if not isinstance(values, torch.Tensor):
            return f"is a {type(values).__name__}, not a torch tensor"
        if values.device != expected:
            return f"is on {values.device}, the session on {expected}"
        if values.dtype.is_floating_point or values.dtype.is_complex:
            return f"is {values.dtype}, not integer"
        return None

    return refusal


def torch_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    """The torch type of a numpy type."""
    import torch

    found: torch.dtype = getattr(torch, dtype.name)
    return found


def can_bind(tensor: Tensor, placed: PlacedTensor) -> bool:
    """Whether TensorRT can read a tensor where it is: no padding, and an aligned address."""
    return tuple(tensor.shape) == placed.shape and tensor.data_ptr() % ALIGNMENT == 0


def copy_in(
    cuda: Cuda, stream: int, tensor: Tensor, placed: PlacedTensor, padding: int | None
) -> None:
    """Copy an input to its place and pad it.

    Args:
        cuda: The GPU.
        stream: Where to copy.
        tensor: Contiguous, of the engine's type, [batch, sequence].
        placed: Where it goes.
        padding: Address of as many padding values as the place holds; None pads with 0.
    """
    batch, sequence = tensor.shape
    size = placed.row_bytes * placed.shape[0]
    if tuple(tensor.shape) != placed.shape:
        if padding is None:
            cuda.fill(placed.address, 0, size, stream)
        else:
            cuda.copy(placed.address, padding, size, stream)
    width = sequence * placed.token_bytes
    cuda.copy_2d(placed.address, placed.row_bytes, tensor.data_ptr(), width, width, batch, stream)


def empty_output(placed: PlacedTensor, shape: Shape, device: str) -> Tensor:
    """A tensor for the part of an output that is not padding, of the engine's type."""
    import torch

    columns = (shape.sequence,) if placed.per_token else placed.shape[1:2]
    return torch.empty(
        (shape.batch, *columns, *placed.shape[2:]), dtype=torch_dtype(placed.dtype), device=device
    )


def copy_out(cuda: Cuda, stream: int, placed: PlacedTensor, tensor: Tensor) -> None:
    """Copy the part of an output that is not padding into a tensor of `empty_output`."""
    width = placed.token_bytes * (tensor.shape[1] if placed.per_token else 1)
    cuda.copy_2d(
        tensor.data_ptr(), width, placed.address, placed.row_bytes, width, len(tensor), stream
    )


def deliver(results: Mapping[str, Tensor], out: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Outputs as float32, or in the caller's tensors.

    Raises:
        BackendError: A tensor of `out` has another shape than the output.
    """
    found = {}
    for name, values in results.items():
        target = out.get(name)
        if target is None:
            found[name] = values.float()
        else:
            check_out(name, values.shape, target.shape)
            found[name] = target.copy_(values)
    return found
