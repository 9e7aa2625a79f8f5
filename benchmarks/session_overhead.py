"""Host time of a TensorRT session's call beyond TensorRT and CUDA themselves.

The session is the real one; the engine and the CUDA runtime under it do nothing, on a machine that
needs no GPU. What is left is the session's own work: checks, padding into pinned memory, shapes and
addresses, copies of the outputs.

    python benchmarks/session_overhead.py --json overhead.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from deploy.engine.builder import Flavour
from deploy.engine.profiles import bucket_profiles
from deploy.engine.session import Precision
from deploy.engine.trt_engine import IOTensor
from deploy.engine.trt_session import TrtSession
from deploy.environment import describe_environment

_NAMES = ("input_ids", "attention_mask", "token_type_ids")
_HEADS = {"classification": ("logits",), "question answering": ("start_logits", "end_logits")}
_BUCKET, _MAX_BATCH = 128, 32


class NoOpCuda:
    """CUDA that does nothing; host memory is real, since the session writes it."""

    torch_device = "cpu"

    def __init__(self) -> None:
        self._ids = itertools.count(256, 256)

    def device_name(self) -> str:
        return "none"

    def free_memory(self) -> int:
        return 0

    def malloc_host(self, size: int) -> Any:
        return np.zeros(size, np.uint8)

    def create(self, *_: Any) -> int:
        return next(self._ids)

    malloc = create_stream = create_event = capture = create

    def nothing(self, *_: Any) -> None:
        pass

    copy = synchronize = launch = free = free_host = nothing
    destroy_stream = destroy_event = destroy_graph = nothing


class NoOpEngine:
    """An engine whose contexts accept everything and compute nothing."""

    shares_profiles = True
    activation_bytes = 0

    def __init__(self, outputs: tuple[str, ...]) -> None:
        self.cuda = NoOpCuda()
        self.profiles = bucket_profiles((_BUCKET, 384), _MAX_BATCH)
        self.info = SimpleNamespace(
            flavour=Flavour.TENSORRT, precision=Precision.FP8, pad_token_id=0
        )
        tokens, numbers = np.dtype(np.int64), np.dtype(np.float32)
        self.inputs = tuple(IOTensor(name, tokens, (-1, -1)) for name in _NAMES)
        columns = 2 if outputs == ("logits",) else -1
        self.outputs = tuple(IOTensor(name, numbers, (-1, columns)) for name in outputs)

    @contextmanager
    def context(self, *_: Any, **__: Any) -> Iterator[NoOpContext]:
        yield NoOpContext({tensor.name: tensor.shape for tensor in self.outputs})


class NoOpContext:
    """An execution context that accepts everything."""

    def __init__(self, outputs: dict[str, tuple[int, ...]]) -> None:
        self._outputs = outputs
        self._shape = (0, 0)

    def set_input_shape(self, _: str, shape: tuple[int, int]) -> bool:
        self._shape = shape
        return True

    def set_tensor_address(self, *_: Any) -> bool:
        return True

    def execute_async_v3(self, _: int) -> bool:
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, int]:
        batch, sequence = self._shape
        columns = self._outputs[name][1]
        return (batch, sequence if columns == -1 else columns)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = [
        measure(head, graphs, tokens, options.calls)
        for head in _HEADS
        for graphs in (True, False)
        for tokens in (_BUCKET, 100)
    ]
    table = Table(title=f"Session call without TensorRT and CUDA, batch 1, bucket {_BUCKET}")
    for column in ("head", "CUDA graph", "tokens", "median, µs", "p99, µs"):
        table.add_column(column, justify="right" if "µs" in column else "left")
    for each in found:
        table.add_row(
            each["head"],
            "yes" if each["cuda_graph"] else "no",
            str(each["sequence"]),
            f"{each['p50_us']:.1f}",
            f"{each['p99_us']:.1f}",
        )
    Console().print(table)
    if options.json:
        report = {"calls": options.calls, "runs": found, "environment": describe_environment()}
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def measure(head: str, graphs: bool, tokens: int, calls: int) -> dict[str, Any]:
    """Time single calls of one kind."""
    ids = np.random.default_rng(0).integers(1000, 30_000, (1, tokens))
    inputs = {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "token_type_ids": np.zeros_like(ids),
    }
    with TrtSession(NoOpEngine(_HEADS[head])) as session:
        if graphs:
            session.warmup()
        for _ in range(calls // 10):
            session.run(inputs)
        times = []
        for _ in range(calls):
            started = time.perf_counter_ns()
            session.run(inputs)
            times.append((time.perf_counter_ns() - started) / 1e3)
    return {
        "head": head,
        "cuda_graph": graphs,
        "batch": 1,
        "sequence": tokens,
        "bucket": _BUCKET,
        "p50_us": statistics.median(times),
        "p99_us": statistics.quantiles(times, n=100)[98],
    }


if __name__ == "__main__":
    main()
