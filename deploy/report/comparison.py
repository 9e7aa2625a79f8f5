"""The comparison of builds as a file: HTML or Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from deploy.report.charts.intervals import Interval, interval_plots
from deploy.report.html import html_environment
from deploy.report.markdown import markdown_environment


def comparison_html(comparison: Mapping[str, Any]) -> str:
    """Render what `compare_builds` returns as one HTML file."""
    rows: dict[str, list[Interval]] = {}
    for row in comparison["rows"]:
        for name, metric in row["metrics"].items():
            if "drop" in metric:
                label = f"{row['build']}  {row['precision']}"
                rows.setdefault(name, []).append(Interval(label, row["precision"], metric))
    template = html_environment().get_template("compare.html.j2")
    return template.render(comparison=comparison, intervals=interval_plots(rows, {}))


def comparison_markdown(comparison: Mapping[str, Any]) -> str:
    """Render what `compare_builds` returns as Markdown."""
    return markdown_environment().get_template("compare.md.j2").render(comparison=comparison)


RENDERERS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    ".html": comparison_html,
    ".md": comparison_markdown,
}
"""By the ending of the file's name."""
