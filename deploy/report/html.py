"""report.html: one file that needs no network, no script and no font."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from deploy.report.charts.curves import curve_plot
from deploy.report.charts.intervals import Interval, IntervalPlot, interval_plots
from deploy.report.charts.ranges import E4M3_MAX, FP16_MAX, range_panels
from deploy.report.filters import FILTERS
from deploy.report.verdict import accuracy_limit
from deploy.report.view import report_view

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

# What the style sheet has a colour for. A class name never comes from results.json.
_STYLES = frozenset({"fp32", "fp16", "int8", "fp8"})
_OUTCOMES = frozenset({"lost", "gained", "neither"})

_MINUS = re.compile(r"(?<![\w.])-(?=\d)")
_BY = re.compile(r"(?<=\d) x (?=\d)")
_TIMES = re.compile(r"(?<=\d)x(?!\w)")
_CODE = re.compile("`([^`]+)`")


def render_html(results: Mapping[str, Any]) -> str:
    """Render results.json as one HTML file; the same for the same results."""
    view = report_view(results)
    ranges = view["ranges"]
    return (
        html_environment()
        .get_template("report.html.j2")
        .render(
            **view,
            intervals=_intervals(results),
            curves=[curve_plot(sweep) for sweep in view["sweeps"]],
            site_panels=range_panels(ranges.sites, E4M3_MAX) if ranges else (),
            carried_panels=range_panels(ranges.carried, FP16_MAX) if ranges else (),
        )
    )


def html_environment() -> Environment:
    """Templates of HTML, in which every value is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("deploy.report", "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=True,
    )
    environment.filters.update(
        FILTERS,
        breakable=breakable,
        outcome=lambda name: name if name in _OUTCOMES else "neither",
        prose=prose,
        style=lambda name: name if name in _STYLES else "fp32",
        typeset=typeset,
    )
    return environment


def breakable(name: str) -> Markup:
    """A path or a module's name that may be broken behind its slashes and dots."""
    from markupsafe import Markup

    parts = re.split(r"(?<=[./])(?=.)", name)
    return Markup("<wbr>").join(parts)


def typeset(text: str) -> str:
    """Text with the signs that plain text does without, and no line break within "95 %"."""
    text = _BY.sub("\u00a0×\u00a0", _MINUS.sub("−", text))
    return _TIMES.sub("×", text).replace(" %", "\u00a0%")


def prose(text: str) -> Markup:
    """A sentence, typeset, whose `quoted` parts are code; everything in it is escaped."""
    from markupsafe import Markup, escape

    parts = _CODE.split(text)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if index % 2 else escape(typeset(part))
        for index, part in enumerate(parts)
    )


def _intervals(results: Mapping[str, Any]) -> tuple[IntervalPlot, ...]:
    compared = results["compare"]
    metrics = list(results["accuracy"]["fp32"]["metrics"])
    if not compared:
        return ()
    rows = {
        metric: [Interval(name, name, each[metric]) for name, each in compared.items()]
        for metric in metrics
    }
    reference = abs(results["accuracy"]["fp32"]["metrics"][metrics[0]])
    return interval_plots(rows, {metrics[0]: accuracy_limit(results) * reference})
