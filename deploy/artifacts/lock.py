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

# Who only asks whether a folder is held has the lock for an instant.
_INSTANT_S = 0.1


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

    lock, note = FileLock(_lock(path), timeout=_INSTANT_S), _note(path)
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
    """Who holds a folder, as far as they wrote themselves down; None where nobody holds it."""
    return _read_note(path) if _is_held(path) else None


def check_not_held(path: Path) -> None:
    """Refuse to read a folder that another process writes; writes nothing itself.

    Raises:
        BuildFolderError: Another command holds it.
    """
    if _is_held(path):
        holder = _await_holder(path)
        if holder is None or holder.pid != os.getpid():
            raise _held(path, holder)


def _is_held(path: Path) -> bool:
    """Whether a process has the lock, wherever it runs: a note tells a pid, which others reuse."""
    try:
        import fcntl  # not on Windows

        # A shared lock needs no right to write. The flags: a pipe would wait for somebody, and
        # FileLock follows no link either.
        lock = os.open(_lock(path), os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        finally:
            os.close(lock)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    except (ImportError, OSError):  # it cannot be asked, as on a filesystem that has no locks
        holder = _read_note(path)
        return holder is not None and _is_running(holder)
    return False


def _lock(path: Path) -> Path:
    return path / ".lock"


def _note(path: Path) -> Path:
    return path / ".lock.json"


def _read_note(path: Path) -> Holder | None:
    try:
        return Holder(**parse_json(_note(path).read_bytes()))
    except (OSError, TypeError, ValueError):
        return None


def _is_running(holder: Holder) -> bool:
    if os.name != "posix":  # where it is no question, but a signal
        return True
    try:
        os.kill(holder.pid, 0)
    except PermissionError:  # it is another user's
        return True
    except (OSError, OverflowError, TypeError):
        return False
    return True


def _await_holder(path: Path) -> Holder | None:
    """Who holds a folder that is held; who is not running here may be in another container."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        holder = _read_note(path)
        if (holder is not None and _is_running(holder)) or time.monotonic() > deadline:
            return holder
        time.sleep(0.01)


def _held(path: Path, holder: Holder | None) -> BuildFolderError:
    who = "" if holder is None else f": process {holder.pid}, since {holder.since}"
    return BuildFolderError(
        f"another command is writing '{path}'{who}",
        "wait for it, or give --out another folder",
    )
