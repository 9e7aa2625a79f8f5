"""report.md: what was built, what it costs in accuracy, and what the builder fused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from deploy.report.latency import label, milliseconds, per_second, sweep_views


def render_markdown(results: Mapping[str, Any]) -> str:
    """Render results.json as Markdown."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("deploy.report", "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        # Markdown, not HTML: `inline` and `cell` keep a name from becoming markup.
        autoescape=False,
    )
    environment.filters.update(
        percent=percent,
        points=points,
        megabytes=megabytes,
        number=number,
        inline=inline,
        cell=cell,
        describe=describe,
        label=label,
        milliseconds=milliseconds,
        per_second=per_second,
    )
    return environment.get_template("report.md.j2").render(
        results=results, sweeps=sweep_views(results), **summaries(results)
    )


def summaries(results: Mapping[str, Any]) -> dict[str, Any]:
    """What both the terminal and the report say in front of the tables."""
    failed = [gate["name"] for gate in results["gates"] if not gate["passed"]]
    return {
        "metrics": list(results["accuracy"]["fp32"]["metrics"]),
        "simulated": [run for run in results["runs"] if run["simulated"]],
        "failed": failed,
    }


def percent(value: float) -> str:
    """A share as per cent with two decimals."""
    return f"{100 * value:.2f}"


def change(drop: Mapping[str, Any]) -> str:
    """A drop as the change that it is, in points; a loss has a minus sign, a gain a plus."""
    return _signed(-100 * drop["drop"])


def interval(drop: Mapping[str, Any]) -> str:
    """The 95 % interval of `change`, its lower end first."""
    low, high = drop["ci95"]
    return f"[{_signed(-100 * high)}, {_signed(-100 * low)}]"


def points(drop: Mapping[str, Any]) -> str:
    """A change in points with its interval."""
    return f"{change(drop)} {interval(drop)}"


def megabytes(size: int) -> str:
    """Bytes as megabytes (10^6)."""
    return f"{size / 1e6:.1f}"


def number(value: float | None) -> str:
    """A limit or a measured value; "unknown" where it could not be measured."""
    # Adding 0 turns -0.0, which a drop of nothing can be, into 0.0.
    return "unknown" if value is None else f"{value + 0.0:g}"


def inline(text: object) -> str:
    """Text as inline code that it cannot break out of (CommonMark 0.31, section 6.1)."""
    line = " ".join(str(text).split())
    longest = max((len(run) for run in re.findall("`+", line)), default=0)
    fence = "`" * (longest + 1)
    # A backtick at either end would join the fence.
    pad = " " if longest else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def cell(text: object) -> str:
    """Inline code in a table, where GitHub's tables take every bare pipe for a border."""
    return inline(text).replace("|", "\\|")


def describe(run: Mapping[str, Any]) -> str:
    """What executed a run, and how real that is."""
    kind = f"simulated in {run['arithmetic']}" if run["simulated"] else run["arithmetic"]
    return f"{run['backend']}, {kind}"


def _signed(value: float) -> str:
    text = f"{value:+.2f}"
    return "0.00" if float(text) == 0.0 else text
