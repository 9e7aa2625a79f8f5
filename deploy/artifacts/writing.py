"""Files that appear whole: written beside their final names, synced and renamed.

A reader sees the old file, the new one or none; what was renamed is still there after a power cut.
"""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from calib_data.durable import sync
from calib_data.redact import redact
from deploy.errors import BuildFolderError

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)

# Of the commands that take a folder to be made.
_GIVE_OUT = "give --out a folder that this user may write"


def make_folder(path: Path) -> None:
    """Make a folder of the build, if it is not there.

    Raises:
        BuildFolderError: A file is in the way, or the parent cannot be written.
    """
    try:
        if not path.is_dir():
            path.mkdir(exist_ok=True)
            sync(path.parent)
    except OSError as error:
        raise not_writable(path, error) from error


def not_writable(path: Path, error: OSError) -> BuildFolderError:
    """The error about a folder or file that cannot be written, by whatever command."""
    return BuildFolderError(
        f"cannot write '{path}': {error.strerror or error}",
        "free disk space, or use a folder on another disk"
        if error.errno in _DISK_FULL
        else "let this user write there, or work on a copy that this user may write",
    )


@contextmanager
def written_beside(path: Path, content: bytes) -> Iterator[Path]:
    """A file that is written and synced beside another, and gone at the end unless renamed.

    Raises:
        BuildFolderError: The disk is full, or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        with _explained(path), temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        # An interrupt must not leave it either.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def put_in_place(temporary: Path, path: Path) -> None:
    """Rename what `written_beside` wrote; it is still there after a power cut.

    Raises:
        BuildFolderError: The folder cannot be written.
    """
    with _explained(path):
        temporary.replace(path)
        sync(path.parent)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        BuildFolderError: The disk is full, or the folder cannot be written.
    """
    with written_beside(path, content) as temporary:
        put_in_place(temporary, path)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise not_writable(path, error) from error


def text_bytes(content: str) -> bytes:
    """Text as our files have it: UTF-8 without secrets."""
    return redact(content).encode("utf-8")


def json_text(content: Any) -> str:
    """Plain data as our JSON files have it."""
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def write_text(path: Path, content: str) -> None:
    """Write UTF-8 text without secrets, whole or not at all; see `write_bytes`."""
    write_bytes(path, text_bytes(content))


def write_json(path: Path, content: Any) -> None:
    """Write JSON whole or not at all; see `write_bytes`."""
    write_text(path, json_text(content))


def check_writable(path: Path) -> None:
    """Find out early whether the folder that --out names can be made; leaves nothing behind.

    Raises:
        BuildFolderError: `path` or the folder it would be made in is not a writable folder.
    """
    existing = path
    try:
        while not existing.exists() and existing != existing.parent:
            if existing.is_symlink():
                raise BuildFolderError(
                    f"cannot write '{path}': '{existing}' is a link to '{existing.readlink()}', "
                    "which is not there",
                    "make the folder that the link points to, or give --out another one",
                )
            existing = existing.parent
        # Permission bits say nothing to root, nor on a read-only mount: only trying does.
        tempfile.TemporaryFile(dir=existing).close()
    except NotADirectoryError:
        raise BuildFolderError(
            f"cannot write '{path}': '{existing}' is not a folder", _GIVE_OUT
        ) from None
    except OSError as error:
        raise BuildFolderError(not_writable(path, error).message, _GIVE_OUT) from error
