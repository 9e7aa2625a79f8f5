"""Calibration ranges: a small panel a role, amax over layers, all on one logarithmic scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deploy.report.charts.axis import Axis, Tick, log_axis, log_ticks
from deploy.report.numbers import magnitude
from deploy.report.ranges import RoleRanges

WIDTH, HEIGHT = 170, 104
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 164, 6, 86

E4M3_MAX = 448.0
FP16_MAX = 65504.0


@dataclass(frozen=True)
class RangePanel:
    """The ranges of one role.

    Attributes:
        role: Name within a layer.
        span: Smallest and largest magnitude, in words.
        title: The panel in words, for those who do not see it.
        points: The line, as points of an SVG polyline.
        dots: Places of the layers.
        x_ticks: First and last layer.
        y_ticks: Magnitudes.
        limit: Where the type's largest value lies.
    """

    role: str
    span: str
    title: str
    points: str
    dots: tuple[tuple[float, float], ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    limit: float


def range_panels(roles: Sequence[RoleRanges], limit: float) -> tuple[RangePanel, ...]:
    """Lay out a panel for each role, on one scale that holds `limit`."""
    seen = [amax for role in roles for amax in role.amax if amax > 0]
    axis = log_axis([*seen, limit], _BOTTOM, _TOP)
    return tuple(_panel(role, axis, limit) for role in roles)


def _panel(role: RoleRanges, axis: Axis, limit: float) -> RangePanel:
    last = max(role.layers[-1], 1)
    across = Axis(0, last, _LEFT + 4, _RIGHT - 4)
    dots = tuple(
        # A tensor of zeros has no place on a logarithmic scale; it lies on the floor.
        (across.place(layer), axis.place(max(amax, axis.low)))
        for layer, amax in zip(role.layers, role.amax, strict=True)
    )
    low, high = min(role.amax), max(role.amax)
    span = magnitude(high) if low == high else f"{magnitude(low)} to {magnitude(high)}"
    ends = dict.fromkeys((role.layers[0], role.layers[-1]))
    return RangePanel(
        role=role.role,
        span=span,
        title=f"{role.role}: amax {span}, largest in layer {role.widest}",
        points=" ".join(f"{x:g},{y:g}" for x, y in dots),
        dots=dots,
        x_ticks=tuple(Tick(across.place(layer), str(layer)) for layer in ends),
        y_ticks=log_ticks(axis),
        limit=axis.place(limit),
    )
