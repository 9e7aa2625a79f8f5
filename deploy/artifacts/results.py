"""results.json, read; `deploy.results` and `deploy.evaluation.results` make it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from calib_data.errors import UsageError
from deploy.artifacts.layout import BuildFolder
from deploy.artifacts.lock import check_not_held
from deploy.artifacts.manifest import check_finished, check_listed
from deploy.artifacts.reading import read_json
from deploy.errors import BuildFolderError

# Of results.json and of what lies beside a plan.
SCHEMA_VERSION = 1


def read_results(folder: BuildFolder) -> dict[str, Any]:
    """Read results.json.

    Raises:
        BuildFolderError: It is missing or damaged, not what its manifest lists, of a build that
            was stopped, or of another version; or another command is about to write it.
    """
    try:
        return _read_results(folder)
    except BuildFolderError:
        # A build that is under way has not been stopped, and must not be started again.
        check_not_held(folder.path)
        raise


def _read_results(folder: BuildFolder) -> dict[str, Any]:
    # Here, because writing a build needs none of it.
    from deploy.results_structure import check_results

    if folder.manifest.is_file():  # else results alone, which can still be shown
        check_listed(folder, check_finished(folder), folder.results)
    results = read_json(folder.results)
    version = results.get("schema_version") if isinstance(results, dict) else None
    if version != SCHEMA_VERSION:
        raise BuildFolderError(
            f"'{folder.results}' has schema version {version}, not {SCHEMA_VERSION}",
            "build it again with this version of `deploy build`",
        )
    try:
        check_results(results)
    except ValueError as error:
        raise BuildFolderError(
            f"'{folder.results}' is damaged: {error}", "restore the file, or build again"
        ) from error
    return dict(results)


def check_built(folder: BuildFolder, results: Mapping[str, Any], precisions: Iterable[str]) -> None:
    """Refuse a precision that a build does not have.

    Raises:
        UsageError: The build lacks one; the remedy lists those it has.
    """
    built = results["onnx"]
    for precision in precisions:
        if precision not in built:
            raise UsageError(
                f"'{folder.path}' has no {precision} model",
                f"use --precision with any of: {', '.join(built)}; or build again with "
                f"--precision {precision}",
            )
