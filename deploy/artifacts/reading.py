"""JSON files, read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from calib_data.parsing import NotParsableError, parse_json
from deploy.errors import BuildFolderError


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        BuildFolderError: The file is missing or is not JSON.
    """
    try:
        return parse_json(path.read_bytes())
    except OSError as error:
        raise not_readable(path, error) from error
    except NotParsableError as error:
        where = f"{path}:{error.line}" if error.line else str(path)
        raise BuildFolderError(f"'{where}' is not JSON: {error}", "build it again") from error


def not_readable(path: Path, error: OSError) -> BuildFolderError:
    """The error about a file of the build that is missing, or that this user may not read."""
    return BuildFolderError(
        f"cannot read '{path}': {error.strerror or error}", "make it with `deploy build`"
    )
