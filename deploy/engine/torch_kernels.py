"""What replaces a few ONNX nodes at once where the hardware has an operation for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploy.engine.torch_ops import round_to_codes

if TYPE_CHECKING:
    from torch import Tensor


def fp8_linear(
    x: Tensor, weight: Tensor, scale: Tensor, one: Tensor, channel: Tensor, bias: Tensor
) -> Tensor:
    """A linear on FP8 tensor cores, whose result torch.compile passes on.

    The GEMM takes one scale; what is left of each channel's is multiplied in the pass that adds
    the bias, which has to read the result anyway. Sums are kept as the tensor cores keep them:
    rounding each partial sum to FP32 costs a fifth of the time, and E4M3's own rounding is larger
    by two orders of magnitude.

    Args:
        x: Codes, float8_e4m3fn [..., K].
        weight: Codes, float8_e4m3fn [K, N], column-major as the tensor cores want it.
        scale: float32 [], the scale of x times the largest scale of the channels.
        one: float32 [], 1: the GEMM wants a second scale.
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
        scale_b=one,
        out_dtype=bias.dtype,
        use_fast_accum=True,
    )
    result = product.float() * channel + bias.float()
    return result.to(bias.dtype).reshape(*x.shape[:-1], -1)


def quantized_linear(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    channel: Tensor,
    bias: Tensor,
    gelu: bool,
    steps: Tensor | None,
) -> Tensor:
    """A linear of 8-bit operands, and what follows it up to the next quantization.

    What `triton_linear` does in one kernel, here in several, for devices without Triton.

    Args:
        x: Codes, float8_e4m3fn or int8 [..., K].
        weight: Codes of the same type, [K, N], column-major.
        scale: float32 [], the scale of x times the largest scale of the channels.
        channel: float32 [N], each channel's scale as a share of the largest.
        bias: [N]; its type is that of what is not quantized.
        gelu: Whether GELU follows.
        steps: float32 [N], what the result is multiplied by before it is rounded to codes: 1 over
            its scale. None leaves it unquantized.

    Returns:
        [..., N]: codes of x's type, or of bias' type where nothing is quantized.
    """
    import torch

    rows = x.reshape(-1, x.shape[-1])
    if x.dtype is torch.int8:
        # On a GPU, torch's product wants more than 16 rows.
        missing = max(0, 17 - rows.shape[0]) if x.is_cuda else 0
        padded = torch.nn.functional.pad(rows, (0, 0, 0, missing))
        sums = torch._int_mm(padded, weight)[: rows.shape[0]].float()
    else:
        sums = rows.float() @ weight.float()
    result = sums * (scale * channel) + bias.float()
    if gelu:
        result = torch.nn.functional.gelu(result)
    result = result.reshape(*x.shape[:-1], -1)
    return result.to(bias.dtype) if steps is None else round_to_codes(result * steps, x.dtype)


def quantized_attention(qkv: Tensor, scales: Tensor, heads: int, mask: Tensor | None) -> Tensor:
    """Attention of 8-bit codes, softmax output quantized and all.

    What `triton_attention` does in one kernel, here in several, for devices without Triton.

    Args:
        qkv: Codes of query, key and value, float8_e4m3fn or int8 [batch, sequence, 3 * hidden].
        scales: float32 [4]: of the scores (q's times k's), the softmax output, v, and the result.
        heads: Number of heads.
        mask: Added to the scores, [batch, 1, 1, sequence]; None where nothing is masked.

    Returns:
        Codes of the same type, [batch, sequence, hidden].
    """
    batch, sequence, width = qkv.shape
    parts = qkv.float().view(batch, sequence, 3, heads, width // 3 // heads)
    q, k, v = parts.permute(2, 0, 3, 1, 4)
    of_scores, of_p, of_v, of_result = scales
    scores = q @ k.transpose(-1, -2) * of_scores
    if mask is not None:
        scores = scores + mask.float()
    codes = round_to_codes(scores.softmax(-1) / of_p, qkv.dtype).float()
    context = (codes @ v).transpose(1, 2).reshape(batch, sequence, width // 3)
    return round_to_codes(context * (of_p * of_v / of_result), qkv.dtype)


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
