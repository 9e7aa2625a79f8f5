"""BERT's linears alone, each way that a GPU of this kind can multiply them.

Times are the device's: a CUDA graph of several products, each on operands of its own so that the
L2 cache holds no more than it would in a model, is replayed between two CUDA events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

if TYPE_CHECKING:
    from torch import Tensor

# In a graph; more than the L2 cache of an H100 (50 MB) holds of BERT-base's operands.
_PRODUCTS = 12
_REPLAYS = 30

WAYS = {
    "fp16": "FP16, bias",
    "fp8_per_tensor": "FP8, one scale, nothing else",
    "fp8_per_row": "FP8, scales by row and column, nothing else",
    "fp8_fused": "FP8, scales by column, bias, GELU where it follows, quantized",
}


def measure_gemms(hidden: int, rows: int) -> Iterator[dict[str, Any]]:
    """Time the four linears of an encoder layer.

    Args:
        hidden: Width of the encoder.
        rows: Tokens in the batch.

    Yields:
        Milliseconds of each way, by its name in `WAYS`, beside the linear's name and sizes.
    """
    linears = {
        "query, key, value": (hidden, 3 * hidden),
        "attention output": (hidden, hidden),
        "intermediate": (hidden, 4 * hidden),
        "output": (4 * hidden, hidden),
    }
    for name, (k, n) in linears.items():
        ways = _ways(rows, k, n, gelu=name == "intermediate")
        yield {
            "linear": name,
            "rows": rows,
            "k": k,
            "n": n,
            "ms": {way: _milliseconds(call) for way, call in ways.items()},
        }


def gemm_table(rows: list[dict[str, Any]]) -> Table:
    """What `measure_gemms` found."""
    table = Table(title="The linears of one layer alone, microseconds")
    for column in ("rows", "linear", *WAYS.values()):
        table.add_column(column, justify="left" if column == "linear" else "right")
    for row in rows:
        times = (f"{row['ms'][way] * 1000:.1f}" for way in WAYS)
        table.add_row(str(row["rows"]), row["linear"], *times)
    return table


def _ways(rows: int, k: int, n: int, gelu: bool) -> Mapping[str, Callable[[int], Tensor]]:
    import torch

    from deploy.engine.triton_linear import quantized_linear

    fp8 = torch.float8_e4m3fn
    x16 = torch.randn(_PRODUCTS, rows, k, device="cuda", dtype=torch.float16)
    w16 = torch.randn(_PRODUCTS, n, k, device="cuda", dtype=torch.float16)
    x8, w8 = x16.to(fp8), w16.to(fp8)
    bias = torch.randn(n, device="cuda", dtype=torch.float16)
    one = torch.ones((), device="cuda")
    per_row, per_column = torch.ones(rows, 1, device="cuda"), torch.ones(1, n, device="cuda")
    channel = torch.ones(n, device="cuda")
    # Brings sums of k products of normal numbers to about E4M3's middle.
    scale, steps = torch.tensor(k**-0.5, device="cuda"), torch.full((n,), 16.0, device="cuda")

    def scaled(index: int, a: Tensor, b: Tensor) -> Tensor:
        # cuBLAS gives row-wise scales only to bfloat16 results on some releases.
        product: Tensor = torch._scaled_mm(
            x8[index], w8[index].t(), a, b, out_dtype=torch.bfloat16, use_fast_accum=True
        )
        return product

    return {
        "fp16": lambda i: torch.nn.functional.linear(x16[i], w16[i], bias),
        "fp8_per_tensor": lambda i: scaled(i, one, one),
        "fp8_per_row": lambda i: scaled(i, per_row, per_column),
        "fp8_fused": lambda i: quantized_linear(
            x8[i], w8[i].t(), scale, channel, bias, gelu, steps
        ),
    }


def _milliseconds(call: Callable[[int], Tensor]) -> float:
    import torch

    for index in range(_PRODUCTS):  # compiles, and chooses tiles
        call(index)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for index in range(_PRODUCTS):
            call(index)
    times = []
    for _ in range(_REPLAYS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return float(np.median(times[5:]) / _PRODUCTS)
