"""Changes against FP32 with their intervals, a row each, on one scale for all metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deploy.report.charts.axis import Axis, Tick, linear_axis, linear_ticks
from deploy.report.numbers import change, interval

WIDTH = 360
_LEFT, _RIGHT = 64, 300
_TOP, _ROW, _BOTTOM = 8, 26, 22

# A limit that lies further off than this many times what is shown would squeeze it.
_FAR = 4.0
_LEAST_POINTS = 0.1


@dataclass(frozen=True)
class Interval:
    """One row of an interval plot.

    Attributes:
        label: What it is.
        precision: Names its colour.
        drop: As in `compare` of results.json.
    """

    label: str
    precision: str
    drop: Mapping[str, Any]


@dataclass(frozen=True)
class Mark:
    """A row as it is drawn; y and the ends of the interval are places."""

    label: str
    precision: str
    y: float
    low: float
    at: float
    high: float
    text: str
    title: str


@dataclass(frozen=True)
class IntervalPlot:
    """An interval plot of one metric.

    Attributes:
        metric: What changed.
        height: Of the drawing, whose width is `WIDTH`.
        floor: Where the axis lies.
        zero: Where nothing changed.
        limit: Where the largest drop that passes lies; None without one, or where it is far off.
        ticks: Of the horizontal axis, in points.
        marks: The rows.
    """

    metric: str
    height: int
    floor: int
    zero: float
    limit: float | None
    ticks: tuple[Tick, ...]
    marks: tuple[Mark, ...]


def interval_plots(
    rows: Mapping[str, Sequence[Interval]], limits: Mapping[str, float]
) -> tuple[IntervalPlot, ...]:
    """Lay out one plot a metric, all on one scale.

    Args:
        rows: Metric to its rows.
        limits: Metric to the largest drop that passes, in the metric's unit.
    """
    ends = [-100 * end for each in rows.values() for row in each for end in row.drop["ci95"]] + [
        -100 * row.drop["drop"] for each in rows.values() for row in each
    ]
    reach = max([_LEAST_POINTS, *map(abs, ends)])
    near = {metric: -100 * limit for metric, limit in limits.items() if 100 * limit < _FAR * reach}
    axis = linear_axis([*ends, *near.values()], _LEFT, _RIGHT, _LEAST_POINTS)
    return tuple(_plot(metric, each, near.get(metric), axis) for metric, each in rows.items())


def _plot(metric: str, rows: Sequence[Interval], limit: float | None, axis: Axis) -> IntervalPlot:
    floor = _TOP + _ROW * len(rows)
    return IntervalPlot(
        metric=metric,
        height=floor + _BOTTOM,
        floor=floor,
        zero=axis.place(0.0),
        limit=None if limit is None else axis.place(limit),
        ticks=linear_ticks(axis),
        marks=tuple(
            Mark(
                label=row.label,
                precision=row.precision,
                y=_TOP + _ROW * (index + 0.5),
                low=axis.place(-100 * row.drop["ci95"][1]),
                at=axis.place(-100 * row.drop["drop"]),
                high=axis.place(-100 * row.drop["ci95"][0]),
                text=change(row.drop),
                title=f"{row.label}: {change(row.drop)} {interval(row.drop)}",
            )
            for index, row in enumerate(rows)
        ),
    )
