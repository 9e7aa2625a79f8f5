"""Axes: from values to places in a chart, and where ticks go."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from deploy.report.numbers import signed

_STEPS = (1.0, 2.0, 5.0)
_MOST_DECADES = 7


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis."""

    at: float
    text: str


@dataclass(frozen=True)
class Axis:
    """A linear or logarithmic axis.

    Attributes:
        low: Value at `start`.
        high: Value at `end`.
        start: Place of `low`, in units of the drawing.
        end: Place of `high`; before `start` on a vertical axis, whose places count downwards.
        log: Whether it is logarithmic; both ends are above 0 then.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def place(self, value: float) -> float:
        """Where a value goes, rounded to a tenth of a unit."""
        share = (self._scaled(value) - self._scaled(self.low)) / (
            self._scaled(self.high) - self._scaled(self.low)
        )
        return round(self.start + share * (self.end - self.start), 1)

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.log else value


def linear_axis(values: Iterable[float], start: float, end: float, least: float) -> Axis:
    """A linear axis that holds all values and 0, a little wider than they are.

    Args:
        values: What it has to hold.
        start: Place of its lower end.
        end: Place of its upper end.
        least: How far it reaches to either side of 0 at least.
    """
    every = (-least, least, *values)
    margin = 0.05 * (max(every) - min(every))
    return Axis(min(every) - margin, max(every) + margin, start, end)


def log_axis(values: Iterable[float], start: float, end: float) -> Axis:
    """A logarithmic axis that holds all values, which are above 0, and a tenth more."""
    every = tuple(values)
    return Axis(min(every) / 1.25, max(every) * 1.25, start, end, log=True)


def linear_ticks(axis: Axis, most: int = 6) -> tuple[Tick, ...]:
    """Ticks at round values, with a sign."""
    step = _round_step((axis.high - axis.low) / most)
    first = math.ceil(axis.low / step)
    last = math.floor(axis.high / step)
    places = 0 if step >= 1 else 1 if step >= 0.1 else 2
    return tuple(
        Tick(axis.place(index * step), _trimmed(index * step, places))
        for index in range(first, last + 1)
    )


def log_ticks(axis: Axis) -> tuple[Tick, ...]:
    """Ticks at 1, 2 and 5 of each decade, at powers of ten, or at fewer where those would crowd."""
    first, last = math.floor(math.log10(axis.low)), math.ceil(math.log10(axis.high))
    steps = _STEPS if math.log10(axis.high / axis.low) < 2 else _STEPS[:1]
    every = math.ceil((last - first) / _MOST_DECADES)
    values = [step * 10.0**decade for decade in range(first, last + 1, every) for step in steps]
    return tuple(
        Tick(axis.place(value), f"{value / 1e3:g}k" if value >= 1e3 else f"{value:g}")
        for value in values
        if axis.low <= value <= axis.high
    )


def _trimmed(value: float, places: int) -> str:
    if round(value, places) == 0:
        return "0"
    return f"{value:+.{places}f}" if places < 2 else signed(value)


def _round_step(least: float) -> float:
    """The smallest of 1, 2 and 5 times a power of ten that is not below `least`."""
    decade = 10.0 ** math.floor(math.log10(least))
    return next(step * decade for step in (*_STEPS, 10.0) if step * decade >= least * (1 - 1e-9))
