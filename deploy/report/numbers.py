"""How numbers of results.json are written, on the terminal and in every report alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def percent(value: float) -> str:
    """A share as per cent with two decimals."""
    return f"{100 * value:.2f}"


def change(drop: Mapping[str, Any]) -> str:
    """A drop as the change that it is, in points; a loss has a minus sign, a gain a plus."""
    return signed(-100 * drop["drop"])


def interval(drop: Mapping[str, Any]) -> str:
    """The 95 % interval of `change`, its lower end first."""
    low, high = drop["ci95"]
    return f"[{signed(-100 * high)}, {signed(-100 * low)}]"


def points(drop: Mapping[str, Any]) -> str:
    """A change in points with its interval."""
    return f"{change(drop)} {interval(drop)}"


def signed(value: float) -> str:
    """A change with two decimals and its sign; nothing has none."""
    text = f"{value:+.2f}"
    return "0.00" if float(text) == 0.0 else text


def megabytes(size: int) -> str:
    """Bytes as megabytes (10^6)."""
    return f"{size / 1e6:.1f}"


def number(value: float | None) -> str:
    """A limit or a measured value; "unknown" where it could not be measured."""
    # Adding 0 turns -0.0, which a drop of nothing can be, into 0.0.
    return "unknown" if value is None else f"{value + 0.0:g}"


def magnitude(value: float) -> str:
    """A range of calibration, with three significant digits and no exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3g}"


def describe(run: Mapping[str, Any]) -> str:
    """What executed a run, and how real that is."""
    kind = f"simulated in {run['arithmetic']}" if run["simulated"] else run["arithmetic"]
    return f"{run['backend']}, {kind}"
