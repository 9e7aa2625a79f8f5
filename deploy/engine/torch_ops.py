"""What each ONNX operator of an encoder computes, in torch.

Only what `export` writes is here, and only as it writes it: an attribute value that no exported
graph has is refused where the graph is read, not ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# Largest magnitudes of the 8-bit types; torch's own cast to E4M3 makes NaN of what is larger.
_E4M3_MAX = 448.0
_INT8_RANGE = (-128, 127)


def quantize(x: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """`QuantizeLinear` with zero point 0: round(x / scale) to nearest even, saturated.

    Args:
        x: Floating point, any shape.
        scale: [].
        dtype: float8_e4m3fn or int8.

    Returns:
        Codes of `dtype`, in x's shape.
    """
    # In FP32 whatever x is: FP16 would round x / scale before it is rounded to a code.
    return round_to_codes(x.float() / scale.float(), dtype)


def round_to_codes(scaled: Tensor, dtype: torch.dtype) -> Tensor:
    """Round float32 values, divided by their scale already, to float8_e4m3fn or int8."""
    import torch

    if dtype is torch.float8_e4m3fn:
        return scaled.clamp(-_E4M3_MAX, _E4M3_MAX).to(dtype)
    return scaled.round().clamp(*_INT8_RANGE).to(dtype)


def dequantize(codes: Tensor, scale: Tensor, axis: int) -> Tensor:
    """`DequantizeLinear` with zero point 0.

    Args:
        codes: float8_e4m3fn or int8, any shape.
        scale: [] or, by channel, [codes.shape[axis]]; its type is the result's.
        axis: Of the channels.
    """
    if scale.ndim:
        shape = [1] * codes.ndim
        shape[axis] = -1
        wide = scale.float().view(shape)
    else:
        wide = scale.float()
    return (codes.float() * wide).to(scale.dtype)


def shape_of(x: Tensor, start: int, end: int | None) -> list[int]:
    """`Shape`: part of a shape, as Python numbers, which torch.compile keeps symbolic."""
    return list(x.shape[start:end])


def join(*parts: Sequence[int]) -> list[int]:
    """`Concat` of shapes."""
    return [size for part in parts for size in part]


def reshape(x: Tensor, shape: Sequence[int]) -> Tensor:
    """`Reshape`, where no size is 0."""
    return x.reshape(list(shape))


def expand(x: Tensor, shape: Sequence[int]) -> Tensor:
    """`Expand`, which broadcasts both ways: a size of 1 keeps x's own."""
    sizes = [1] * (x.ndim - len(shape)) + list(shape)
    own = [1] * (len(shape) - x.ndim) + list(x.shape)
    return x.expand([a if b == 1 else b for a, b in zip(own, sizes, strict=True)])


def slice_axes(
    x: Tensor,
    starts: Sequence[int],
    ends: Sequence[int],
    axes: Sequence[int],
    steps: Sequence[int],
) -> Tensor:
    """`Slice` along some axes, forwards."""
    index: list[Any] = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        index[axis] = slice(start, end, step)
    return x[tuple(index)]


def gather(x: Tensor, indices: Tensor | int, axis: int) -> Tensor:
    """`Gather`: rows of an embedding, or one position along an axis."""
    import torch

    if isinstance(indices, int):
        return x.select(axis, indices)
    if axis == 0:
        return torch.nn.functional.embedding(indices, x)
    return x.index_select(axis, indices.flatten()).reshape(
        *x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]
    )


def gather_elements(x: Tensor, indices: Tensor, axis: int) -> Tensor:
    """`GatherElements`: one element of an axis for each place."""
    return x.gather(axis, indices)


def gemm(a: Tensor, b: Tensor, c: Tensor | None, transposed: bool) -> Tensor:
    """`Gemm` with alpha and beta 1: a @ b + c."""
    product = a @ (b.t() if transposed else b)
    return product if c is None else product + c


def unsqueeze(x: Tensor, axes: Sequence[int]) -> Tensor:
    """`Unsqueeze`: a size of 1 at each of these axes of the result."""
    for axis in sorted(axes):
        x = x.unsqueeze(axis)
    return x


def squeeze(x: Tensor, axes: Sequence[int]) -> Tensor:
    """`Squeeze`: without these axes."""
    return x.squeeze(tuple(axes))


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """`LayerNormalization` over the last axis, statistics in FP32."""
    import torch

    return torch.nn.functional.layer_norm(x, x.shape[-1:], weight, bias, epsilon)


def cumulative_sum(x: Tensor, axis: int) -> Tensor:
    """`CumSum`, inclusive and forwards, in x's own type."""
    import torch

    return torch.cumsum(x, axis, dtype=x.dtype)


def relu(x: Tensor) -> Tensor:
    """`Relu`."""
    return x.relu()


def tanh(x: Tensor) -> Tensor:
    """`Tanh`."""
    return x.tanh()
