"""Write the reports of a build folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy.artifacts import BuildFolder, write_text
from deploy.report.html import render_html
from deploy.report.markdown import render_markdown


def rendered_reports(folder: BuildFolder, results: Mapping[str, Any]) -> dict[Path, str]:
    """The text of report.html and report.md; the same results give the same text."""
    return {
        folder.report_html: render_html(results),
        folder.report: render_markdown(results),
    }


def write_reports(folder: BuildFolder, results: Mapping[str, Any]) -> tuple[Path, ...]:
    """Write report.html and report.md of a build that is not finished, or has no manifest.

    Returns:
        What was written, for the manifest.

    Raises:
        BuildFolderError: The folder cannot be written.
    """
    # Both are made before either is written, so that no folder has reports of two results.
    reports = rendered_reports(folder, results)
    for path, text in reports.items():
        write_text(path, text)
    return tuple(reports)
