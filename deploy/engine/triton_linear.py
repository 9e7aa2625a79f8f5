# mypy: disable-error-code="untyped-decorator, no-untyped-def"
"""An 8-bit linear whose result leaves the GEMM as the next operation wants it.

cuBLAS writes a GEMM's result in 16 bits, and another kernel reads it again to add the bias, apply
GELU and quantize. For BERT's widest tensors that costs as much time as the GEMM. Here all of it
happens on the accumulators. Import this module only where Triton is: on a GPU.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_SQRT_HALF = tl.constexpr(0.7071067811865476)
_E4M3_MAX = tl.constexpr(448.0)
# Adding and subtracting 1.5 * 2**23 rounds a float32 below 2**22 to the nearest even integer.
_ROUND = tl.constexpr(12582912.0)


def _config(rows: int, columns: int, depth: int, warps: int, stages: int) -> Any:
    sizes = {"ROWS": rows, "COLUMNS": columns, "DEPTH": depth, "GROUP": 8}
    return triton.Config(sizes, num_warps=warps, num_stages=stages)


# Tile shapes that win on H100 somewhere between 128 and 12,288 rows of BERT-base and -large.
_CONFIGS = [
    _config(128, 256, 128, 8, 3),
    _config(128, 256, 128, 8, 4),
    _config(256, 128, 128, 8, 3),
    _config(128, 128, 128, 8, 4),
    _config(128, 128, 128, 4, 4),
    _config(128, 128, 64, 4, 5),
    _config(64, 128, 128, 4, 4),
    _config(64, 64, 128, 4, 4),
    _config(64, 256, 128, 8, 3),
]


@triton.autotune(configs=_CONFIGS, key=["rows_class", "n", "k", "GELU", "QUANTIZES"])
@triton.jit
def _linear_kernel(
    x,
    weight,
    out,
    scale,
    channel,
    bias,
    out_scale,
    m,
    rows_class,
    n: tl.constexpr,
    k: tl.constexpr,
    FP8: tl.constexpr,
    GELU: tl.constexpr,
    QUANTIZES: tl.constexpr,
    DEQUANTIZES: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
):
    # Tiles that run at the same time share rows and columns, so that L2 serves them.
    tile = tl.program_id(0)
    row_tiles, column_tiles = tl.cdiv(m, ROWS), tl.cdiv(n, COLUMNS)
    in_group = GROUP * column_tiles
    first = tile // in_group * GROUP
    height = min(row_tiles - first, GROUP)
    row_tile = first + (tile % in_group) % height
    column_tile = (tile % in_group) // height

    rows = row_tile * ROWS + tl.arange(0, ROWS)
    columns = column_tile * COLUMNS + tl.arange(0, COLUMNS)
    depth = tl.arange(0, DEPTH)
    # Beyond the last row or column there is nothing to read: the first is read again, and the
    # result is not stored.
    x_at = x + (rows % m)[:, None] * k + depth[None, :]
    weight_at = weight + (columns % n)[None, :] * k + depth[:, None]
    if FP8:
        sums = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    else:
        sums = tl.zeros((ROWS, COLUMNS), dtype=tl.int32)
    for start in range(0, k, DEPTH):
        if k % DEPTH == 0:
            a, b = tl.load(x_at), tl.load(weight_at)
        else:
            left = k - start
            a = tl.load(x_at, mask=depth[None, :] < left, other=0.0)
            b = tl.load(weight_at, mask=depth[:, None] < left, other=0.0)
        if FP8:
            sums = tl.dot(a, b, sums)
        else:
            sums = tl.dot(a, b, sums, out_dtype=tl.int32)
        x_at += DEPTH
        weight_at += DEPTH

    inside = columns < n
    factor = tl.load(scale) * tl.load(channel + columns, mask=inside, other=0.0)
    shift = tl.load(bias + columns, mask=inside, other=0.0)
    # Rounded where the graph's own values are 16-bit numbers.
    result = sums.to(tl.float32) * factor[None, :] + shift.to(tl.float32)[None, :]
    result = result.to(bias.dtype.element_ty).to(tl.float32)
    if GELU:
        result = result * 0.5 * (1.0 + tl.math.erf(result * _SQRT_HALF))
        result = result.to(bias.dtype.element_ty).to(tl.float32)
    if QUANTIZES:
        step = tl.load(out_scale + columns, mask=inside, other=1.0)[None, :]
        result = result / step
        if FP8:
            result = tl.minimum(tl.maximum(result, -_E4M3_MAX), _E4M3_MAX)
        else:
            result = (tl.minimum(tl.maximum(result, -128.0), 127.0) + _ROUND) - _ROUND
        if DEQUANTIZES:
            if FP8:
                result = result.to(tl.float8e4nv).to(tl.float32)
            result = result * step
    out_at = out + rows[:, None] * n + columns[None, :]
    tl.store(out_at, result.to(out.dtype.element_ty), mask=(rows[:, None] < m) & inside[None, :])


@torch.library.custom_op("bert_trt_deploy::quantized_linear", mutates_args=())
def quantized_linear(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    channel: Tensor,
    bias: Tensor,
    gelu: bool,
    out_scale: Tensor | None,
    dequantizes: bool,
) -> Tensor:
    """`torch_kernels.quantized_linear` in one kernel; arguments and result are described there."""
    out = _empty(x, weight, bias, out_scale, dequantizes)
    k, n = weight.shape
    m = x.numel() // k

    def grid(meta: dict[str, int]) -> tuple[int]:
        return (triton.cdiv(m, meta["ROWS"]) * triton.cdiv(n, meta["COLUMNS"]),)

    _linear_kernel[grid](
        x.contiguous(),
        weight,
        out,
        scale,
        channel,
        bias,
        out_scale,
        m,
        m.bit_length(),
        n,
        k,
        x.dtype is torch.float8_e4m3fn,
        gelu,
        out_scale is not None,
        dequantizes,
    )
    return out


@quantized_linear.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    channel: Tensor,
    bias: Tensor,
    gelu: bool,
    out_scale: Tensor | None,
    dequantizes: bool,
) -> Tensor:
    return _empty(x, weight, bias, out_scale, dequantizes)


def _empty(
    x: Tensor, weight: Tensor, bias: Tensor, out_scale: Tensor | None, dequantizes: bool
) -> Tensor:
    dtype = bias.dtype if out_scale is None or dequantizes else x.dtype
    return torch.empty((*x.shape[:-1], weight.shape[1]), dtype=dtype, device=x.device)
