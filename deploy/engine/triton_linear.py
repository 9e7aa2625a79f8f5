# mypy: disable-error-code="untyped-decorator, no-untyped-def"
"""An 8-bit linear whose result leaves the GEMM as the next operation wants it.

cuBLAS writes a GEMM's result in 16 bits, and another kernel reads it again to add the bias, apply
GELU and quantize. For BERT's widest tensors that costs as much time as the GEMM. Here all of it
happens on the sums. Import this module only where Triton is: on a GPU of compute capability 9.0 or
later, whose copy engine (TMA) feeds the tensor cores.
"""

from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

# Adding and subtracting 1.5 * 2**23 rounds a float32 below 2**22 to the nearest even integer.
_ROUND = tl.constexpr(12582912.0)


def _set_blocks(arguments: dict[str, Any]) -> None:
    """Tell the copy engine which tiles a configuration reads and writes."""
    rows, columns, depth = (arguments[name] for name in ("ROWS", "COLUMNS", "DEPTH"))
    arguments["x"].block_shape = [rows, depth]
    arguments["weight"].block_shape = [columns, depth]
    arguments["out"].block_shape = [rows, columns]


def _config(rows: int, columns: int, depth: int, warps: int, stages: int, resident: int) -> Any:
    sizes = {"ROWS": rows, "COLUMNS": columns, "DEPTH": depth, "GROUP": 8, "RESIDENT": resident}
    return triton.Config(sizes, num_warps=warps, num_stages=stages, pre_hook=_set_blocks)


# Tiles that win somewhere between 128 and 12,288 rows of BERT-base and -large. Where two programs
# fit on a multiprocessor, one multiplies while the other does what follows the sums.
_CONFIGS = [
    _config(128, 256, 128, 8, 3, 1),
    _config(128, 128, 128, 4, 3, 2),
    _config(64, 128, 128, 4, 4, 2),
    _config(64, 64, 128, 4, 5, 2),
]


@triton.jit
def quantize_e4m3(values):
    """Codes of values that are divided by their scale already: the conversion saturates."""
    return values.to(tl.float8e4nv)


@triton.jit
def quantize_int8(values):
    """Codes of values that are divided by their scale already, as float32."""
    return (tl.minimum(tl.maximum(values, -128.0), 127.0) + _ROUND) - _ROUND


@triton.jit
def _gelu(x):
    """X * Phi(x), Phi being good to 6e-5.

    Between -4 and 4 it is 0.5 plus an odd polynomial, fitted by least squares whose weights were
    raised where the error was largest: no division and no exponential, which would take as long as
    the GEMM.
    """
    inside = tl.minimum(tl.maximum(x, -4.0), 4.0)
    u = inside * inside
    p = -1.58078203e-09 * u + 1.21710876e-07
    p = p * u - 4.10086136e-06
    p = p * u + 8.06673397e-05
    p = p * u - 1.04820408e-03
    p = p * u + 9.66487329e-03
    p = p * u - 6.61753782e-02
    p = p * u + 3.98847510e-01
    return x * (inside * p + 0.5)


@triton.autotune(configs=_CONFIGS, key=["rows_class", "n", "k", "FP8", "GELU", "QUANTIZES"])
@triton.jit
def _linear_kernel(
    x,
    weight,
    out,
    scale,
    channel,
    bias,
    steps,
    m,
    rows_class,
    n: tl.constexpr,
    k: tl.constexpr,
    FP8: tl.constexpr,
    GELU: tl.constexpr,
    QUANTIZES: tl.constexpr,
    MULTIPROCESSORS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
    RESIDENT: tl.constexpr,
):
    programs: tl.constexpr = MULTIPROCESSORS * RESIDENT
    row_tiles, column_tiles = tl.cdiv(m, ROWS), tl.cdiv(n, COLUMNS)
    in_group = GROUP * column_tiles
    # Flattened, so that the next tile's first loads run during this one's last arithmetic.
    for tile in tl.range(tl.program_id(0), row_tiles * column_tiles, programs, flatten=True):
        # Tiles that run at the same time share rows and columns, so that L2 serves them.
        first = tile // in_group * GROUP
        height = tl.minimum(row_tiles - first, GROUP)
        row = (first + (tile % in_group) % height) * ROWS
        column = (tile % in_group) // height * COLUMNS
        if FP8:
            sums = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
        else:
            sums = tl.zeros((ROWS, COLUMNS), dtype=tl.int32)
        for start in range(0, k, DEPTH):
            a = x.load([row, start])
            b = weight.load([column, start])
            if FP8:
                sums = tl.dot(a, b.T, sums)
            else:
                sums = tl.dot(a, b.T, sums, out_dtype=tl.int32)
        columns = column + tl.arange(0, COLUMNS)
        inside = columns < n
        factor = tl.load(scale) * tl.load(channel + columns, mask=inside, other=0.0)
        shift = tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)
        if QUANTIZES:
            step = tl.load(steps + columns, mask=inside, other=0.0)
            if not GELU:
                factor, shift = factor * step, shift * step
        result = sums.to(tl.float32) * factor[None, :] + shift[None, :]
        if GELU:
            result = _gelu(result)
            if QUANTIZES:
                result *= step[None, :]
        if QUANTIZES:
            result = quantize_e4m3(result) if FP8 else quantize_int8(result)
        out.store([row, column], result.to(out.dtype))


@torch.library.custom_op("bert_trt_deploy::quantized_linear", mutates_args=())
def _quantized_linear(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    channel: Tensor,
    bias: Tensor,
    gelu: bool,
    steps: Tensor | None,
) -> Tensor:
    k, n = weight.shape
    rows = x.reshape(-1, k).contiguous()
    m = len(rows)
    out = torch.empty((m, n), dtype=bias.dtype if steps is None else x.dtype, device=x.device)
    multiprocessors = _multiprocessors(x.device)

    def grid(meta: dict[str, int]) -> tuple[int]:
        tiles = triton.cdiv(m, meta["ROWS"]) * triton.cdiv(n, meta["COLUMNS"])
        return (min(tiles, multiprocessors * meta["RESIDENT"]),)

    unset = [1, 1]  # until a configuration says its tiles
    _linear_kernel[grid](
        TensorDescriptor(rows, [m, k], [k, 1], unset),
        TensorDescriptor(weight.t(), [n, k], [k, 1], unset),
        TensorDescriptor(out, [m, n], [n, 1], unset),
        scale,
        channel,
        bias,
        steps,
        m,
        m.bit_length(),
        n,
        k,
        x.dtype is torch.float8_e4m3fn,
        gelu,
        steps is not None,
        multiprocessors,
    )
    return out.view(*x.shape[:-1], n)


@_quantized_linear.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    channel: Tensor,
    bias: Tensor,
    gelu: bool,
    steps: Tensor | None,
) -> Tensor:
    dtype = bias.dtype if steps is None else x.dtype
    return torch.empty((*x.shape[:-1], weight.shape[1]), dtype=dtype, device=x.device)


def quantized_linear(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    channel: Tensor,
    bias: Tensor,
    gelu: bool,
    steps: Tensor | None,
) -> Tensor:
    """`torch_kernels.quantized_linear` in one kernel; arguments and result are described there."""
    result: Tensor = _quantized_linear(x, weight, scale, channel, bias, gelu, steps)
    return result


@cache
def _multiprocessors(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).multi_processor_count)
