"""How fast the precisions of a build are against each other, as far as that was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import geometric_mean
from typing import Any

from deploy.engine.session import Backend
from deploy.report.latency import times

# Of sweeps with several backends, the first of these that can be compared counts: what runs the
# engines before what imitates them.
_ORDER = (Backend.TENSORRT, Backend.TENSORRT_RTX, Backend.TORCH, Backend.ONNXRUNTIME)


@dataclass(frozen=True)
class Speeds:
    """A sweep in which at least two precisions of the build really ran.

    Attributes:
        backend: What ran them.
        device: On which processor.
        shapes: Number of shapes.
        mean_ms: Precision to the geometric mean of p50 over all shapes, in milliseconds.
        fastest: Precision to the number of shapes at which none is faster.
        losses: Precision to where it is slower than one of as wide a type or a wider, in words.
        doubtful: Precisions whose latency at some shape is not to be trusted.
    """

    backend: str
    device: str
    shapes: int
    mean_ms: Mapping[str, float]
    fastest: Mapping[str, int]
    losses: Mapping[str, tuple[str, ...]]
    doubtful: frozenset[str]

    def ratio(self, precision: str, reference: str) -> float:
        """How many times as fast a precision is, on the geometric mean over shapes."""
        return self.mean_ms[reference] / self.mean_ms[precision]


def measured_speeds(results: Mapping[str, Any]) -> Speeds | None:
    """The sweep that says most of engines; None where no two precisions can be compared.

    The crossover table leaves out what was simulated, and so does this.
    """
    for backend in _ORDER:
        speeds = _speeds(results, backend.value)
        if speeds is not None:
            return speeds
    return None


def _speeds(results: Mapping[str, Any], backend: str) -> Speeds | None:
    rows = [row for row in results.get("crossover", ()) if row["sweep"] == backend]
    # Baselines have a backend of their own.
    entries = [
        {each["precision"]: each for each in row["entries"] if each["backend"] == backend}
        for row in rows
    ]
    everywhere = [
        precision
        for precision in (entries[0] if entries else ())
        if all(precision in at_shape for at_shape in entries)
    ]
    if len(everywhere) < 2:
        return None
    latencies = [
        row
        for row in results["latency"]
        if row["sweep"] == row["backend"] == backend and not row["simulated"]
    ]
    return Speeds(
        backend=backend,
        device=latencies[0]["device"],
        shapes=len(rows),
        mean_ms={
            precision: geometric_mean(at_shape[precision]["p50_ms"] for at_shape in entries)
            for precision in everywhere
        },
        fastest={
            precision: sum(at_shape[precision]["fastest"] for at_shape in entries)
            for precision in everywhere
        },
        losses={
            precision: tuple(
                f"{row['batch']} x {row['sequence']} ({times(each['ratio'])} of "
                f"{each['precision']})"
                for row, at_shape in zip(rows, entries, strict=True)
                for each in at_shape[precision]["speedups"]
                if each["loss"] and each["backend"] == backend
            )
            for precision in everywhere
        },
        doubtful=frozenset(row["precision"] for row in latencies if not row["trusted"]),
    )
