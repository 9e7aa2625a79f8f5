"""JSON files, read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from deploy.errors import BuildFolderError


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        BuildFolderError: The file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise not_readable(path, error) from error
    except ValueError as error:
        raise BuildFolderError(f"'{path}' is not JSON: {error}", "build it again") from error


def not_readable(path: Path, error: OSError) -> BuildFolderError:
    """The error about a file of the build that is missing, or that this user may not read."""
    return BuildFolderError(
        f"cannot read '{path}': {error.strerror or error}", "make it with `deploy build`"
    )
