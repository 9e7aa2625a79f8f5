"""results.json, read; `deploy.results` and `deploy.evaluate.results` make it."""

from __future__ import annotations

from typing import Any

from deploy.artifacts.layout import BuildFolder
from deploy.artifacts.manifest import check_finished
from deploy.artifacts.reading import read_json
from deploy.errors import BuildFolderError

# Of results.json and of what lies beside a plan.
SCHEMA_VERSION = 1


def read_results(folder: BuildFolder) -> dict[str, Any]:
    """Read results.json.

    Raises:
        BuildFolderError: It is missing, of a build that was stopped, or of another version.
    """
    if folder.manifest.is_file():  # else results alone, which can still be shown
        check_finished(folder)
    results = read_json(folder.results)
    version = results.get("schema_version") if isinstance(results, dict) else None
    if version != SCHEMA_VERSION:
        raise BuildFolderError(
            f"'{folder.results}' has schema version {version}, not {SCHEMA_VERSION}",
            "build it again with this version of `deploy build`",
        )
    return dict(results)
