"""What tells whether a file is still the one that was written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from deploy.artifacts.layout import BuildFolder, own_files
from deploy.artifacts.reading import not_readable

_BLOCK = 1 << 20


def sha256(path: Path) -> str:
    """Hash of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def hash_files(folder: BuildFolder, paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Size in bytes and sha256 of files, by their paths within the folder.

    Raises:
        BuildFolderError: One cannot be read.
    """
    entries = {}
    for path in paths:
        try:
            entries[folder.name(path)] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
        except OSError as error:
            raise not_readable(path, error) from error
    return entries


def file_hashes(folder: BuildFolder) -> dict[str, dict[str, Any]]:
    """Size in bytes and sha256 of all `own_files`, by path within the folder."""
    return hash_files(folder, own_files(folder))
