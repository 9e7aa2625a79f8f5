"""report.md: what was built, what it costs in accuracy, and what the builder fused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def render_markdown(results: Mapping[str, Any]) -> str:
    """Render results.json as Markdown."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("deploy.report", "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        # Markdown, not HTML: `inline` keeps a model's name from becoming markup.
        autoescape=False,
    )
    environment.filters.update(
        percent=percent, points=points, megabytes=megabytes, inline=inline, describe=describe
    )
    return environment.get_template("report.md.j2").render(results=results, **summaries(results))


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


def points(drop: Mapping[str, Any]) -> str:
    """A drop in points with its interval; a loss has a minus sign, a gain a plus."""
    low, high = drop["ci95"]
    return f"{-100 * drop['drop']:+.2f} [{-100 * high:+.2f}, {-100 * low:+.2f}]"


def megabytes(size: int) -> str:
    """Bytes as megabytes (10^6)."""
    return f"{size / 1e6:.1f}"


def inline(text: str) -> str:
    """Text as inline code that cannot break out of it, nor out of a table."""
    return "`" + str(text).replace("`", "'").replace("|", "\\|").replace("\n", " ") + "`"


def describe(run: Mapping[str, Any]) -> str:
    """What executed a run, and how real that is."""
    kind = f"simulated in {run['arithmetic']}" if run["simulated"] else run["arithmetic"]
    return f"{run['backend']}, {kind}"
