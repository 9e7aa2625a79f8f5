"""The table that a person decides from: a line for each precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deploy.report.latency import times
from deploy.report.numbers import change, interval, megabytes, percent
from deploy.report.speed import Speeds, measured_speeds
from deploy.report.verdict import verdict


@dataclass(frozen=True)
class OverviewRow:
    """One precision.

    Attributes:
        precision: Which.
        chosen: Whether the verdict is for it.
        value: The main metric, in per cent.
        change: Against FP32, in points; empty for FP32 itself.
        interval: The change's 95 % interval.
        speed: Against the reference of the speeds; empty where it was not measured.
        onnx_mb: Size of the ONNX model.
        plan_mb: Size of its first plan; empty without one.
    """

    precision: str
    chosen: bool
    value: str
    change: str
    interval: str
    speed: str
    onnx_mb: str
    plan_mb: str


@dataclass(frozen=True)
class Overview:
    """All precisions, FP32 first.

    Attributes:
        metric: The main metric.
        speed_of: Precision that speeds are relative to; None where none were measured.
        rows: A line each.
    """

    metric: str
    speed_of: str | None
    rows: tuple[OverviewRow, ...]


def overview(results: Mapping[str, Any]) -> Overview:
    """The precisions of a build side by side."""
    decided, speeds = verdict(results), measured_speeds(results)
    reference = None
    if speeds is not None:
        reference = next(
            name for name in ("fp16", "fp32", *speeds.mean_ms) if name in speeds.mean_ms
        )
    metric = next(iter(results["accuracy"]["fp32"]["metrics"]))
    return Overview(
        metric=metric,
        speed_of=reference,
        rows=tuple(
            OverviewRow(
                precision=name,
                chosen=name == decided.precision,
                value=percent(accuracy["metrics"][metric]),
                change=change(compared[metric]) if compared else "",
                interval=interval(compared[metric]) if compared else "",
                speed=_speed(name, reference, speeds),
                onnx_mb=megabytes(results["onnx"][name]["bytes"])
                if name in results["onnx"]
                else "",
                plan_mb=_plan(results, name),
            )
            for name, accuracy in results["accuracy"].items()
            for compared in [results["compare"].get(name)]
        ),
    )


def _speed(name: str, reference: str | None, speeds: Speeds | None) -> str:
    if speeds is None or reference is None or name not in speeds.mean_ms:
        return ""
    return times(speeds.ratio(name, reference))


def _plan(results: Mapping[str, Any], name: str) -> str:
    sizes = [engine["bytes"] for engine in results["engines"] if engine["precision"] == name]
    return megabytes(sizes[0]) if sizes else ""
