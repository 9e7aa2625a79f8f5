"""Latency over batch size, a panel a sequence length; or over sequence length, in one panel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deploy.report.charts.axis import Axis, Tick, log_axis, log_ticks
from deploy.report.latency import LatencyLine, SweepView, label, milliseconds

WIDTH, HEIGHT = 360, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 350, 10, 180

# Colours of the style sheet; the rest are baselines, which are told apart by their dashes.
_COLOURED = frozenset({"fp32", "fp16", "int8", "fp8"})
_BASELINES = ("base1", "base2", "base3")


@dataclass(frozen=True)
class Series:
    """A contestant of the legend.

    Attributes:
        name: What it is called.
        style: Names colour and dashes.
    """

    name: str
    style: str


@dataclass(frozen=True)
class Dot:
    """A measurement as it is drawn."""

    x: float
    y: float
    title: str


@dataclass(frozen=True)
class Curve:
    """A contestant in one panel.

    Attributes:
        style: Names colour and dashes.
        dots: By ascending batch or sequence.
    """

    style: str
    dots: tuple[Dot, ...]

    @property
    def path(self) -> str:
        """The line through all dots, as points of an SVG polyline."""
        return " ".join(f"{dot.x:g},{dot.y:g}" for dot in self.dots)


@dataclass(frozen=True)
class CurvePanel:
    """One panel.

    Attributes:
        title: What all of it has in common.
        x_label: What runs from left to right.
        x_ticks: Where it was measured.
        y_ticks: In milliseconds.
        curves: The contestants.
    """

    title: str
    x_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    curves: tuple[Curve, ...]


@dataclass(frozen=True)
class CurvePlot:
    """All panels of a sweep, on common axes.

    Attributes:
        series: The legend.
        panels: By ascending sequence.
    """

    series: tuple[Series, ...]
    panels: tuple[CurvePanel, ...]


def curve_plot(view: SweepView) -> CurvePlot | None:
    """Lay out the latencies of a sweep, simulated ones left out.

    Returns:
        None where there is only one shape, which makes no curve, or nothing but simulations.
    """
    lines = [line for line in view.lines if not line.row["simulated"]]
    batches = sorted({line.row["batch"] for line in lines})
    sequences = sorted({line.row["sequence"] for line in lines})
    if len(batches) < 2 and len(sequences) < 2:
        return None
    styles = _styles(lines, view.name)
    y_axis = log_axis([line.row["p50_ms"] for line in lines], _BOTTOM, _TOP)
    if len(batches) > 1:
        key, across, titles = (
            "batch",
            batches,
            [(f"sequence {s}", "sequence", s) for s in sequences],
        )
    else:
        key, across, titles = "sequence", sequences, [(f"batch {batches[0]}", "batch", batches[0])]
    x_axis = log_axis(across, _LEFT, _RIGHT)
    panels = [
        _panel(
            title, key, [line for line in lines if line.row[of] == value], styles, x_axis, y_axis
        )
        for title, of, value in titles
    ]
    return CurvePlot(
        series=tuple(Series(name, style) for name, style in styles.items()), panels=tuple(panels)
    )


def _styles(lines: Sequence[LatencyLine], sweep: str) -> dict[str, str]:
    styles: dict[str, str] = {}
    for line in lines:
        name = label(line.row, sweep)
        if name in _COLOURED:
            styles[name] = name
        elif name not in styles:
            used = sum(style in _BASELINES for style in styles.values())
            styles[name] = _BASELINES[used % len(_BASELINES)]
    return styles


def _panel(
    title: str,
    key: str,
    lines: Sequence[LatencyLine],
    styles: dict[str, str],
    x_axis: Axis,
    y_axis: Axis,
) -> CurvePanel:
    dots: dict[str, list[Dot]] = {}
    for line in sorted(lines, key=lambda each: int(each.row[key])):
        row = line.row
        name = label(row, row["sweep"])
        dots.setdefault(name, []).append(
            Dot(
                x=x_axis.place(row[key]),
                y=y_axis.place(row["p50_ms"]),
                title=f"{name}, {row['batch']} x {row['sequence']}: "
                f"{milliseconds(row['p50_ms'])} ms",
            )
        )
    return CurvePanel(
        title=title,
        x_label=key,
        x_ticks=tuple(
            Tick(x_axis.place(value), str(value)) for value in sorted({li.row[key] for li in lines})
        ),
        y_ticks=log_ticks(y_axis),
        curves=tuple(Curve(styles[name], tuple(each)) for name, each in dots.items()),
    )
