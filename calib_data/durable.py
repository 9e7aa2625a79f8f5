"""What survives a power cut: a file is on disk once it is synced, its name once its folder is."""

from __future__ import annotations

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Have the system put a file's content, or a folder's list of names, on disk now.

    Raises:
        OSError: The disk refuses.
    """
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot open a folder, and needs no flush of one
    # Windows flushes only what is open for writing.
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace(temporary: Path, path: Path) -> None:
    """Give a written file its final name, so that neither half of it nor no file is left.

    Raises:
        OSError: The disk is full, or the folder cannot be written.
    """
    sync(temporary)
    temporary.replace(path)
    sync(path.parent)
