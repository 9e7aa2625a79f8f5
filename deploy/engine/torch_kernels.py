"""What replaces a few ONNX nodes at once where the hardware has an operation for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def fp8_linear(x: Tensor, weight: Tensor, scale: Tensor, channel: Tensor, bias: Tensor) -> Tensor:
    """A linear on FP8 tensor cores.

    The GEMM takes one scale, so that it need not read scales of channels; what is left of each
    channel's scale is multiplied in the pass that adds the bias, which has to read the result
    anyway.

    Args:
        x: Codes, float8_e4m3fn [..., K].
        weight: Codes, float8_e4m3fn [K, N], column-major as the tensor cores want it.
        scale: float32 [], the scale of x times the largest scale of the channels.
        channel: float32 [N], each channel's scale as a share of the largest.
        bias: [N]; its type is the result's.

    Returns:
        [..., N].
    """
    import torch

    product = torch._scaled_mm(
        x.reshape(-1, x.shape[-1]),
        weight,
        scale_a=scale,
        scale_b=torch.ones_like(scale),
        out_dtype=bias.dtype,
    )
    result = product.float() * channel + bias.float()
    return result.to(bias.dtype).reshape(*x.shape[:-1], -1)


def int8_linear(x: Tensor, weight: Tensor, scale: Tensor, channel: Tensor, bias: Tensor) -> Tensor:
    """A linear on INT8 tensor cores; exact up to the scales.

    Args:
        x: Codes, int8 [..., K].
        weight: Codes, int8 [K, N].
        scale: float32 [], the scale of x times the largest scale of the channels.
        channel: float32 [N], each channel's scale as a share of the largest.
        bias: [N]; its type is the result's.

    Returns:
        [..., N].
    """
    import torch

    product = torch._int_mm(x.reshape(-1, x.shape[-1]), weight)
    result = product.float() * (scale * channel) + bias.float()
    return result.to(bias.dtype).reshape(*x.shape[:-1], -1)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A linear in x's own type: x [..., K], weight [N, K], bias [N]."""
    import torch

    return torch.nn.functional.linear(x, weight, bias)


def attention(q: Tensor, k_transposed: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q kT + mask) v, in one kernel that never writes the probabilities.

    Args:
        q: [batch, heads, sequence, head_dim], scaled already.
        k_transposed: [batch, heads, head_dim, sequence].
        v: As q.
        mask: Added to the scores, broadcast to [batch, heads, sequence, sequence]; None where
            nothing is masked, which is faster.
    """
    import torch

    k = k_transposed.transpose(-1, -2)
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)
