"""Write the reports of a build folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy.artifacts import BuildFolder, write_text
from deploy.report.html import render_html
from deploy.report.markdown import render_markdown


def write_reports(folder: BuildFolder, results: Mapping[str, Any]) -> tuple[Path, ...]:
    """Write report.html and report.md; the same results give the same bytes.

    Returns:
        What was written, for the manifest.

    Raises:
        BuildFolderError: The folder cannot be written.
    """
    # Both are made before either is written, so that no folder has reports of two results.
    html, markdown = render_html(results), render_markdown(results)
    write_text(folder.report_html, html)
    write_text(folder.report, markdown)
    return folder.report_html, folder.report
