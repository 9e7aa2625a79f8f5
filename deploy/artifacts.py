"""The build folder: the unit that a user moves, checks and ships.

Every file is written beside its final name, synced and renamed, so that a reader sees the old
file, the new one or none.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from deploy.errors import BuildFolderError

_BLOCK = 1 << 20


@dataclass(frozen=True)
class BuildFolder:
    """Where everything in a build lies.

    Attributes:
        path: The folder.
    """

    path: Path

    @property
    def calibration(self) -> Path:
        """The calibration table."""
        return self.path / "calibration.json"

    @property
    def results(self) -> Path:
        """The results, from which every report is made."""
        return self.path / "results.json"

    @property
    def report(self) -> Path:
        """The report in Markdown."""
        return self.path / "report.md"

    @property
    def manifest(self) -> Path:
        """What the build was asked for, and the hash of each of its files."""
        return self.path / "manifest.json"

    @property
    def tokenizer(self) -> Path:
        """The checkpoint's tokenizer, so that the folder can be served without the checkpoint."""
        return self.path / "tokenizer"

    def onnx(self, precision: str) -> Path:
        """The ONNX model of a precision."""
        return self.path / "onnx" / f"model.{precision}.onnx"

    def plan(self, precision: str, target: str) -> Path:
        """The engine of a precision for a compute capability."""
        return self.path / "engines" / f"model.{precision}.{target}.plan"


@contextmanager
def open_build_folder(path: Path) -> Iterator[BuildFolder]:
    """Create the folder where needed, and hold it against a second build.

    Raises:
        BuildFolderError: The folder cannot be written, or another build holds it.
    """
    from filelock import FileLock, Timeout

    remedy = "give --out a folder that this user may write"
    try:
        for folder in (path, path / "onnx", path / "engines"):
            folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path / ".lock", timeout=0)
        lock.acquire()
    except Timeout:
        raise BuildFolderError(
            f"another build is writing '{path}'", "wait for it, or give --out another folder"
        ) from None
    except OSError as error:
        raise BuildFolderError(f"cannot write '{path}': {error.strerror}", remedy) from error
    try:
        yield BuildFolder(path)
    finally:
        lock.release()


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        BuildFolderError: The disk is full, or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise BuildFolderError(
            f"cannot write '{path}': {error.strerror}",
            "free disk space, or give --out another folder",
        ) from error


def write_text(path: Path, content: str) -> None:
    """Write UTF-8 text whole or not at all; see `write_bytes`."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Write JSON whole or not at all; see `write_bytes`."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        BuildFolderError: The file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BuildFolderError(
            f"cannot read '{path}': {error.strerror}", "make it with `deploy build`"
        ) from error
    except ValueError as error:
        raise BuildFolderError(f"'{path}' is not JSON: {error}", "build it again") from error


def check_writable(path: Path) -> None:
    """Find out early whether a build folder can be made, without making anything.

    Raises:
        BuildFolderError: `path` or the folder it would be made in is not a writable folder.
    """
    existing = path
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        reason = (
            "is not a folder" if existing.exists() and not existing.is_dir() else "is read-only"
        )
        raise BuildFolderError(
            f"cannot write '{path}': '{existing}' {reason}",
            "give --out a folder that this user may write",
        )


def clear_previous(folder: BuildFolder) -> None:
    """Remove what an earlier build left, so that no file of it is taken for one of this build.

    Only files that the earlier manifest names are removed; whatever else lies there stays.
    """
    if not folder.manifest.is_file():
        return
    files = read_json(folder.manifest).get("files", {})
    folder.manifest.unlink()
    root = folder.path.resolve()
    for name in files:
        path = (folder.path / name).resolve()
        if path.is_relative_to(root):
            path.unlink(missing_ok=True)


def file_hashes(folder: BuildFolder) -> dict[str, dict[str, Any]]:
    """Size in bytes and sha256 of every file of a build, by its path within the folder."""
    return {
        path.relative_to(folder.path).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": sha256(path),
        }
        for path in sorted(folder.path.rglob("*"))
        if path.is_file() and not path.name.startswith(".") and path != folder.manifest
    }


def sha256(path: Path) -> str:
    """Hash of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
