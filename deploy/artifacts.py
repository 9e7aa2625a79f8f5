"""The build folder: the unit that a user moves, checks and ships.

Every file is written beside its final name, synced and renamed, so that a reader sees the old
file, the new one or none.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from calib_data.errors import UsageError
from calib_data.parsing import NotParsableError, parse_json
from calib_data.redact import redact
from deploy.errors import BuildFolderError

_BLOCK = 1 << 20

# All that a build makes: what its manifest lists, and what the next build may remove. Whatever
# else a user keeps in the folder is neither hashed nor touched.
_OWN = (
    "calibration.json",
    "results.json",
    "examples.json",
    "report.html",
    "report.md",
    "onnx/model.*.onnx",
    "onnx/model.*.onnx.data",
    "engines/model.*.plan",
    "engines/model.*.plan.json",
    "engines/model.*.layers.json",
    "tokenizer/*",
)

# Of results.json and manifest.json.
SCHEMA_VERSION = 1

# How `write_bytes` and `export.onnx_file` name a file that is not yet whole.
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}")


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
    def examples(self) -> Path:
        """The examples that each precision changes; see `deploy.evaluation.examples`."""
        return self.path / "examples.json"

    @property
    def journals(self) -> Path:
        """How far evaluations have come; gone once they are complete."""
        return self.path / "evaluation"

    @property
    def report(self) -> Path:
        """The report in Markdown."""
        return self.path / "report.md"

    @property
    def report_html(self) -> Path:
        """The report as one HTML file."""
        return self.path / "report.html"

    @property
    def manifest(self) -> Path:
        """What the build was asked for, and the hash of each of its files."""
        return self.path / "manifest.json"

    @property
    def unfinished(self) -> Path:
        """Lies there from a build's first write until its manifest is complete."""
        return self.path / ".unfinished"

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

    def plan_info(self, precision: str, target: str) -> Path:
        """What that engine is, beside it."""
        return self.path / "engines" / f"model.{precision}.{target}.plan.json"

    def layers(self, precision: str, target: str) -> Path:
        """The layers of that engine."""
        return self.path / "engines" / f"model.{precision}.{target}.layers.json"


@contextmanager
def hold_folder(path: Path) -> Iterator[None]:
    """Create a folder where needed, and hold it against a second writer.

    Raises:
        BuildFolderError: The folder cannot be written, or another command holds it.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path / ".lock", timeout=0)
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise BuildFolderError(
            f"another build is writing '{path}'", "wait for it, or give --out another folder"
        ) from None
    except OSError as error:
        raise _not_writable(path, error) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def open_build_folder(path: Path) -> Iterator[BuildFolder]:
    """Create the folder where needed, and hold it against a second build.

    Raises:
        BuildFolderError: The folder cannot be written, or another build holds it.
    """
    folder = BuildFolder(path)
    with hold_folder(path):
        for part in ("onnx", "engines"):
            make_folder(path / part)
        yield folder
        if folder.manifest.is_file():
            folder.unfinished.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Make a folder of the build, if it is not there.

    Raises:
        BuildFolderError: A file is in the way, or the parent cannot be written.
    """
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise _not_writable(path, error) from error


def _not_writable(path: Path, error: OSError) -> BuildFolderError:
    return BuildFolderError(
        f"cannot write '{path}': {error.strerror or error}",
        "give --out a folder that this user may write",
    )


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
        raise BuildFolderError(
            f"cannot write '{path}': {error.strerror}",
            "free disk space, or give --out another folder",
        ) from error
    finally:
        # Gone if it was renamed; an interrupt must not leave it either.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: Path, content: str) -> None:
    """Write UTF-8 text without secrets, whole or not at all; see `write_bytes`."""
    write_bytes(path, redact(content).encode("utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Write JSON whole or not at all; see `write_bytes`."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        BuildFolderError: The file is missing or is not JSON.
    """
    try:
        return parse_json(path.read_bytes())
    except OSError as error:
        raise BuildFolderError(
            f"cannot read '{path}': {error.strerror}", "make it with `deploy build`"
        ) from error
    except NotParsableError as error:
        where = f"{path}:{error.line}" if error.line else str(path)
        raise BuildFolderError(f"'{where}' is not JSON: {error}", "build it again") from error


def read_results(folder: BuildFolder) -> dict[str, Any]:
    """Read results.json.

    Raises:
        BuildFolderError: It is missing, damaged, or not of a version that can be read here.
    """
    # Here, because writing a build needs none of it.
    from deploy.results_structure import check_results

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


def read_manifest(folder: BuildFolder) -> dict[str, Any]:
    """Read manifest.json.

    Raises:
        BuildFolderError: It is missing, as in a build that was stopped, or is damaged.
    """
    from deploy.results_structure import check_manifest

    manifest = read_json(folder.manifest)
    try:
        check_manifest(manifest)
    except ValueError as error:
        raise BuildFolderError(
            f"'{folder.manifest}' is damaged: {error}", "restore the file, or build again"
        ) from error
    return dict(manifest)


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


def check_listed(folder: BuildFolder, manifest: Mapping[str, Any], path: Path) -> None:
    """Refuse a file of a build that is not what the manifest says.

    Raises:
        BuildFolderError: It is missing, has changed, or is not listed.
    """
    listed = manifest["files"].get(path.relative_to(folder.path).as_posix(), {})
    if not path.is_file() or sha256(path) != listed.get("sha256"):
        raise BuildFolderError(
            f"'{path}' is not the file that the manifest lists", "build it again"
        )


def check_writable(path: Path) -> None:
    """Find out early whether a build folder can be made; leaves nothing behind.

    Raises:
        BuildFolderError: `path` or the folder it would be made in is not a writable folder.
    """
    existing = path
    try:
        while not existing.exists() and existing != existing.parent:
            existing = existing.parent
        # Permission bits say nothing to root, nor on a read-only mount: only trying does.
        tempfile.TemporaryFile(dir=existing).close()
    except NotADirectoryError:
        raise BuildFolderError(
            f"cannot write '{path}': '{existing}' is not a folder",
            "give --out a folder that this user may write",
        ) from None
    except OSError as error:
        raise _not_writable(path, error) from error


def clear_previous(folder: BuildFolder) -> None:
    """Remove what an earlier build left, so that no file of it is taken for one of this build.

    Removes files that a build makes, by their names; whatever else lies there stays. A folder
    without a sign of an earlier build is left as it is.

    Raises:
        BuildFolderError: A file cannot be removed.
    """
    try:
        if folder.manifest.exists() or folder.unfinished.exists():
            folder.manifest.unlink(missing_ok=True)
            for path in (*_own_files(folder), *_leftovers(folder)):
                path.unlink()
        folder.unfinished.touch()
    except OSError as error:
        raise _not_writable(folder.path, error) from error


def file_hashes(folder: BuildFolder) -> dict[str, dict[str, Any]]:
    """Size in bytes and sha256 of every file of a build, by its path within the folder."""
    return _hashes(folder, _own_files(folder))


def update_manifest(folder: BuildFolder, written: Iterable[Path]) -> None:
    """Bring the manifest up to date on files of a finished build that were written again.

    Raises:
        BuildFolderError: The manifest is missing or damaged, or cannot be written.
    """
    manifest = read_manifest(folder)
    write_json(
        folder.manifest,
        {**manifest, "files": {**manifest["files"], **_hashes(folder, written)}},
    )


def _hashes(folder: BuildFolder, paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    return {
        path.relative_to(folder.path).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": sha256(path),
        }
        for path in paths
    }


def _own_files(folder: BuildFolder) -> list[Path]:
    return sorted(
        path
        for pattern in _OWN
        for path in _inside(folder, pattern)
        if not path.name.startswith(".")
    )


def _leftovers(folder: BuildFolder) -> list[Path]:
    """What a killed process had not finished writing."""
    parts = dict.fromkeys(pattern.rpartition("/")[0] for pattern in _OWN)
    return [
        path
        for part in parts
        for path in _inside(folder, f"{part}/.*".lstrip("/"))
        if _TEMPORARY.fullmatch(path.name)
    ]


def _inside(folder: BuildFolder, pattern: str) -> Iterator[Path]:
    """Files that match, unless a link leads out of the folder to them."""
    root = folder.path.resolve()
    for path in folder.path.glob(pattern):
        if path.is_file() and path.parent.resolve().is_relative_to(root):
            yield path


def sha256(path: Path) -> str:
    """Hash of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
