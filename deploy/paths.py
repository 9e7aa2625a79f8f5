"""Paths that come out of a file: they lead to something within the build folder, or nowhere."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath, PureWindowsPath

from deploy.errors import BuildFolderError

# Characters; what a build writes has under 40.
_LONGEST = 255


def scratch_prefix() -> str:
    """How this process' temporary folders begin, so that they can be found where it has to end."""
    return f"deploy-{os.getpid()}-"


def inside(folder: Path, name: str) -> Path:
    """Where a name out of a manifest lies.

    Args:
        folder: The build folder.
        name: Path within it, with forward slashes, as the manifest writes it.

    Raises:
        BuildFolderError: It is absolute, climbs out, or leads out by a link.
    """
    pure = PurePosixPath(name)
    strange = (
        not pure.parts
        or len(name) > _LONGEST
        or "\x00" in name
        or "\\" in name
        or ".." in pure.parts
        or pure.is_absolute()
        or PureWindowsPath(name).drive
    )
    if not strange:
        path = folder / pure
        try:
            if path.resolve().is_relative_to(folder.resolve()):
                return path
        except (OSError, RuntimeError):  # links in a circle
            pass
    raise BuildFolderError(
        f"'{name}' does not lie within the build folder '{folder}'",
        "use the folder as `deploy build` wrote it, or build it again",
    )
