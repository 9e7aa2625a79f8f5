"""Write the reports of a build folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy.artifacts import (
    BuildFolder,
    hold_folder,
    read_results,
    replace_files,
    write_text,
)
from deploy.report.html import render_html
from deploy.report.markdown import render_markdown


def report_folder(folder: BuildFolder) -> dict[str, Any]:
    """Render the reports of a build folder again.

    Returns:
        The content of results.json that they show.

    Raises:
        BuildFolderError: There are no results, they are damaged, the folder cannot be written, or
            another command holds it.
    """
    read_results(folder)  # before the lock, which makes the folder
    with hold_folder(folder.path):
        # Only what is read under the lock is what another command has left.
        results = read_results(folder)
        if folder.manifest.is_file():
            replace_files(folder, rendered_reports(folder, results))
        else:
            write_reports(folder, results)
    return results


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
