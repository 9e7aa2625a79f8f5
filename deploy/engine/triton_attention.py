# mypy: disable-error-code="untyped-decorator, no-untyped-def"
"""Attention on 8-bit codes, as a Q/DQ graph has it: softmax output quantized, result in codes.

Scores are sums of 8-bit products. Values come in rows, which 8-bit tensor cores do not multiply:
for the second product codes are widened to FP16, which holds every E4M3 and INT8 code exactly.
Import this module only where Triton is: on a GPU.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from deploy.engine.triton_linear import quantize_e4m3, quantize_int8

_LOG2_E = tl.constexpr(1.4426950408889634)


def _config(rows: int, columns: int, warps: int, stages: int) -> Any:
    return triton.Config({"ROWS": rows, "COLUMNS": columns}, num_warps=warps, num_stages=stages)


# Tiles that win somewhere between 16 and 512 tokens.
_CONFIGS = [
    _config(64, 128, 4, 2),
    _config(128, 128, 8, 2),
    _config(128, 64, 4, 2),
    _config(128, 64, 8, 3),
    _config(64, 64, 4, 3),
]


@triton.jit
def _scores(q, k_at, mask_at, factor, start, sequence, stride, COLUMNS, FP8, MASKED):
    """One block of masked scores times log2(e), float32 [rows, COLUMNS]."""
    columns = start + tl.arange(0, COLUMNS)
    whole: tl.constexpr = sequence % COLUMNS == 0
    if whole:
        k = tl.load(k_at + columns[None, :] * stride)
    else:
        k = tl.load(k_at + columns[None, :] * stride, mask=columns[None, :] < sequence, other=0.0)
    if FP8:
        scores = tl.dot(q, k) * factor
    else:
        scores = tl.dot(q, k, out_dtype=tl.int32).to(tl.float32) * factor
    if MASKED:
        mask = tl.load(mask_at + columns, mask=columns < sequence, other=0.0).to(tl.float32)
        scores += (mask * _LOG2_E)[None, :]
    return scores if whole else tl.where(columns[None, :] < sequence, scores, float("-inf"))


@triton.jit
def _values(v_at, start, sequence, stride, COLUMNS):
    columns = start + tl.arange(0, COLUMNS)
    v = tl.load(v_at + columns[:, None] * stride, mask=columns[:, None] < sequence, other=0.0)
    return v.to(tl.float16)


@triton.jit
def _codes(probabilities, FP8):
    """Codes of probabilities, divided by their scale already: they need no upper limit."""
    if FP8:
        return probabilities.to(tl.float8e4nv).to(tl.float16)
    return quantize_int8(probabilities).to(tl.float16)


@triton.autotune(configs=_CONFIGS, key=["batch_heads", "sequence", "HEAD", "FP8", "MASKED"])
@triton.jit
def _attention_kernel(
    qkv,
    mask,
    out,
    scales,
    batch_heads,
    heads: tl.constexpr,
    sequence: tl.constexpr,
    HEAD: tl.constexpr,
    FP8: tl.constexpr,
    MASKED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    batch, head = tl.program_id(1) // heads, tl.program_id(1) % heads
    width: tl.constexpr = heads * HEAD
    stride: tl.constexpr = 3 * width
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    at = tl.arange(0, HEAD)
    base = qkv + batch.to(tl.int64) * sequence * stride + head * HEAD
    mask_at = mask + batch * sequence if MASKED else qkv  # in the second case never read
    q = tl.load(
        base + rows[:, None] * stride + at[None, :], mask=rows[:, None] < sequence, other=0.0
    )
    k_at = base + width + at[:, None]
    v_at = base + 2 * width + at[None, :]
    factor = tl.load(scales) * _LOG2_E
    step = tl.load(scales + 1)  # the scale of the probabilities
    if sequence <= COLUMNS:
        scores = _scores(q, k_at, mask_at, factor, 0, sequence, stride, COLUMNS, FP8, MASKED)
        weights = tl.exp2(scores - tl.max(scores, 1)[:, None])
        codes = _codes(weights * (1.0 / (tl.sum(weights, 1) * step))[:, None], FP8)
        result = tl.dot(codes, _values(v_at, 0, sequence, stride, COLUMNS))
    else:
        # Probabilities are quantized as they end up, so their sums must be known first.
        largest = tl.full((ROWS,), float("-inf"), dtype=tl.float32)
        total = tl.zeros((ROWS,), dtype=tl.float32)
        for start in range(0, sequence, COLUMNS):
            scores = _scores(
                q, k_at, mask_at, factor, start, sequence, stride, COLUMNS, FP8, MASKED
            )
            higher = tl.maximum(largest, tl.max(scores, 1))
            total = total * tl.exp2(largest - higher)
            total += tl.sum(tl.exp2(scores - higher[:, None]), 1)
            largest = higher
        # exp2 of what is left over divides by the sum and by the scale as well.
        shift = largest + tl.log2(total * step)
        result = tl.zeros((ROWS, HEAD), dtype=tl.float32)
        for start in range(0, sequence, COLUMNS):
            scores = _scores(
                q, k_at, mask_at, factor, start, sequence, stride, COLUMNS, FP8, MASKED
            )
            codes = _codes(tl.exp2(scores - shift[:, None]), FP8)
            result = tl.dot(codes, _values(v_at, start, sequence, stride, COLUMNS), result)
    result *= step * tl.load(scales + 2) / tl.load(scales + 3)
    result = quantize_e4m3(result) if FP8 else quantize_int8(result)
    out_at = out + (batch.to(tl.int64) * sequence + rows[:, None]) * width + head * HEAD
    tl.store(out_at + at[None, :], result.to(out.dtype.element_ty), mask=rows[:, None] < sequence)


@torch.library.custom_op("bert_trt_deploy::quantized_attention", mutates_args=())
def _quantized_attention(qkv: Tensor, scales: Tensor, heads: int, mask: Tensor | None) -> Tensor:
    batch, sequence, width = qkv.shape
    out = torch.empty((batch, sequence, width // 3), dtype=qkv.dtype, device=qkv.device)

    def grid(meta: dict[str, int]) -> tuple[int, int]:
        return (triton.cdiv(sequence, meta["ROWS"]), batch * heads)

    _attention_kernel[grid](
        qkv,
        None if mask is None else mask.expand(batch, 1, 1, sequence).contiguous(),
        out,
        scales,
        batch * heads,
        heads,
        sequence,
        width // 3 // heads,
        qkv.dtype is torch.float8_e4m3fn,
        mask is not None,
    )
    return out


@_quantized_attention.register_fake
def _(qkv: Tensor, scales: Tensor, heads: int, mask: Tensor | None) -> Tensor:
    return torch.empty((*qkv.shape[:2], qkv.shape[2] // 3), dtype=qkv.dtype, device=qkv.device)


def quantized_attention(qkv: Tensor, scales: Tensor, heads: int, mask: Tensor | None) -> Tensor:
    """`torch_kernels.quantized_attention` in one kernel; see there."""
    result: Tensor = _quantized_attention(qkv, scales, heads, mask)
    return result
