"""One writer at a time: a lock that ends with its process, and a note of who has it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

from calib_data.parsing import parse_json
from deploy.artifacts.writing import not_writable
from deploy.errors import BuildFolderError

# The note follows the lock by milliseconds, and a killed process leaves the note of its own behind.
_PATIENCE_S = 2.0


@dataclass(frozen=True)
class Holder:
    """Who writes a folder.

    Attributes:
        pid: Of the process.
        since: When it began, in UTC, as ISO 8601 has it.
    """

    pid: int
    since: str


@contextmanager
def hold_folder(path: Path) -> Iterator[None]:
    """Create a folder where needed, and hold it against a second writer.

    The system takes the lock from a process that ends, however it ends.

    Raises:
        BuildFolderError: The folder cannot be written, or another command holds it.
    """
    from filelock import FileLock, Timeout

    lock, note = FileLock(path / ".lock", timeout=0), _note(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        holder = Holder(os.getpid(), datetime.now(timezone.utc).isoformat(timespec="seconds"))
        # Nobody's work depends on it, so it needs no sync.
        note.write_text(json.dumps(asdict(holder)), encoding="utf-8")
    except Timeout:
        raise _held(path, _await_holder(path)) from None
    except OSError as error:
        lock.release()
        raise not_writable(path, error) from error
    try:
        yield
    finally:
        with suppress(OSError):
            note.unlink(missing_ok=True)
        lock.release()


def read_holder(path: Path) -> Holder | None:
    """The process that wrote itself down as holding a folder, if it is still there."""
    try:
        holder = Holder(**parse_json(_note(path).read_bytes()))
        if os.name == "posix":  # elsewhere it is no question, but a signal
            os.kill(holder.pid, 0)
    except PermissionError:  # it is another user's
        return holder
    except (OSError, OverflowError, TypeError, ValueError):
        return None
    return holder


def check_not_held(path: Path) -> None:
    """Refuse to read a folder that another process is writing; writes nothing itself.

    Raises:
        BuildFolderError: Another command holds it.
    """
    holder = read_holder(path)
    if holder is not None and holder.pid != os.getpid():
        raise _held(path, holder)


def _note(path: Path) -> Path:
    return path / ".lock.json"


def _await_holder(path: Path) -> Holder | None:
    deadline = time.monotonic() + _PATIENCE_S
    while (holder := read_holder(path)) is None and time.monotonic() < deadline:
        time.sleep(0.01)
    return holder


def _held(path: Path, holder: Holder | None) -> BuildFolderError:
    who = "" if holder is None else f": process {holder.pid}, since {holder.since}"
    return BuildFolderError(
        f"another command is writing '{path}'{who}",
        "wait for it, or give --out another folder",
    )
