"""report.md: what was built, what it costs in accuracy, and what the builder fused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from deploy.report.latency import label, milliseconds, per_second, sweep_views
from deploy.report.numbers import describe, megabytes, number, percent, points


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
