"""Where the inputs and outputs of one padded shape lie in a session's two buffers.

A session has one buffer on the device and one of pinned memory on the host, laid out alike:

    input 0 | input 1 | … | output 0 | output 1 | …

The tensors of a shape are packed, so that all inputs go to the device in one copy and all outputs
come back in one, however small the batch. The largest shape fills the buffers; the others use
their first part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.engine.buckets import per_token
from deploy.engine.profiles import Shape
from deploy.engine.trt_engine import IOTensor

# TensorRT asks for it of every address; torch's and CUDA's allocations have it.
ALIGNMENT = 256


@dataclass(frozen=True)
class PlacedTensor:
    """An input or output of one padded shape.

    Attributes:
        name: Its name.
        shape: Its dimensions, padding included.
        dtype: Its type.
        per_token: Whether axis 1 is the sequence.
        address: Of its place on the device.
        host: A view of its place in the pinned buffer.
        row_bytes: Size of a row.
        token_bytes: Size of a token's part of a row; of the row where it has no such parts.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    per_token: bool
    address: int
    host: NDArray[Any]
    row_bytes: int
    token_bytes: int


@dataclass(frozen=True)
class Span:
    """Neighbouring tensors, copied at once.

    Attributes:
        device: Address on the device.
        host: Address in the pinned buffer.
        size: Bytes.
    """

    device: int
    host: int
    size: int


@dataclass(frozen=True)
class Placement:
    """Inputs and outputs of one padded shape.

    Attributes:
        inputs: In the engine's order.
        outputs: In the engine's order.
        to_device: What to copy before a run.
        to_host: What to copy after it.
    """

    inputs: tuple[PlacedTensor, ...]
    outputs: tuple[PlacedTensor, ...]
    to_device: Span
    to_host: Span


def buffer_bytes(inputs: Sequence[IOTensor], outputs: Sequence[IOTensor], shape: Shape) -> int:
    """Size of the buffers that a shape needs."""
    return _offsets([_dims(t, inputs[0], shape) for t in (*inputs, *outputs)], inputs, outputs)[-1]


def place(
    inputs: Sequence[IOTensor],
    outputs: Sequence[IOTensor],
    shape: Shape,
    device: int,
    host: NDArray[np.uint8],
) -> Placement:
    """Lay a shape out.

    Args:
        inputs: The engine's inputs.
        outputs: The engine's outputs.
        shape: Rows and tokens, padding included.
        device: Address of the buffer on the device.
        host: The pinned buffer, uint8 [bytes].
    """
    declared = (*inputs, *outputs)
    dims = [_dims(tensor, inputs[0], shape) for tensor in declared]
    offsets = _offsets(dims, inputs, outputs)
    placed = []
    for tensor, extent, offset in zip(declared, dims, offsets, strict=False):
        size = prod(extent) * tensor.dtype.itemsize
        by_token = per_token(tensor.shape, inputs[0].shape)
        placed.append(
            PlacedTensor(
                name=tensor.name,
                shape=extent,
                dtype=tensor.dtype,
                per_token=by_token,
                address=device + offset,
                host=host[offset : offset + size].view(tensor.dtype).reshape(extent),
                row_bytes=size // extent[0],
                token_bytes=size // (extent[0] * extent[1]) if by_token else size // extent[0],
            )
        )
    first_output = offsets[len(inputs)]
    base = host.ctypes.data
    return Placement(
        inputs=tuple(placed[: len(inputs)]),
        outputs=tuple(placed[len(inputs) :]),
        to_device=Span(device, base, first_output),
        to_host=Span(device + first_output, base + first_output, offsets[-1] - first_output),
    )


def _offsets(
    dims: Sequence[tuple[int, ...]], inputs: Sequence[IOTensor], outputs: Sequence[IOTensor]
) -> list[int]:
    """Where each tensor begins, and where the last one ends."""
    offsets = [0]
    for extent, tensor in zip(dims, (*inputs, *outputs), strict=True):
        end = offsets[-1] + prod(extent) * tensor.dtype.itemsize
        offsets.append(-(-end // ALIGNMENT) * ALIGNMENT)
    return offsets


def _dims(tensor: IOTensor, tokens: IOTensor, shape: Shape) -> tuple[int, ...]:
    if per_token(tensor.shape, tokens.shape):
        return (shape.batch, shape.sequence, *tensor.shape[2:])
    return (shape.batch, *tensor.shape[1:])
