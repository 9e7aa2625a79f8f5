"""Ctrl-C or SIGTERM ends a command that works on a folder within two seconds, deep in whatever.

Python hears of a signal between two of its own instructions: not while native code exports, syncs
or compiles. So a thread waits for the signal too, and ends the process if that takes long. Nothing
is lost by it: a folder's manifest vouches for whole files only, at any moment.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from deploy.artifacts import REMOVABLE, BuildFolder, read_holder, read_manifest, temporary_files
from deploy.cli.signals import STOPPING, stopped_by
from deploy.errors import BuildFolderError
from deploy.paths import scratch_prefix

# Of the two seconds; most of what is running has been unwound by then.
_GRACE_S = 1.5

HowToGoOn = Callable[[BuildFolder], str | None]
"""What to tell a user whose command was stopped; None for nothing."""


@contextmanager
def stopping_at_once(out: Path, how_to_go_on: HowToGoOn) -> Iterator[None]:
    """Stand around all work of a command on a folder; say how to go on where it is stopped.

    Args:
        out: The build folder.
        how_to_go_on: Says it.
    """
    with _watching(out, how_to_go_on):
        try:
            yield
        except KeyboardInterrupt:
            _say(how_to_go_on, out)
            raise


def resume_build(folder: BuildFolder) -> str | None:
    """For a command that goes on in the stage that was stopped."""
    try:
        stage = read_manifest(folder)["unfinished"]
    except BuildFolderError:
        return None  # nothing was begun
    if stage is None:
        return None
    return f"stopped in {stage}: run the same command again, and it goes on there"


def resume_evaluation(folder: BuildFolder) -> str | None:
    """For a command that goes on with what models have answered."""
    try:
        begun = read_manifest(folder).get(REMOVABLE, ())
    except BuildFolderError:
        return None
    if not any((folder.path / name).parent == folder.journals for name in begun):
        return None
    return "what was answered is kept: run the same command again, and it goes on there"


def begin_anew(folder: BuildFolder) -> str | None:
    """For a command that keeps nothing until its end."""
    return "nothing was written: run the same command again, and it begins anew"


@contextmanager
def _watching(out: Path, how_to_go_on: HowToGoOn) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # who alone is interrupted
        yield
        return
    done = threading.Event()
    ours, python = socket.socketpair()
    python.setblocking(False)
    watcher = threading.Thread(
        target=_watch, args=(ours, done, out, how_to_go_on), name="interrupts", daemon=True
    )
    before = signal.set_wakeup_fd(python.fileno(), warn_on_full_buffer=False)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        signal.set_wakeup_fd(before)
        python.close()  # which the watcher reads as the end
        watcher.join()
        ours.close()


def _watch(
    signals: socket.socket, done: threading.Event, out: Path, how_to_go_on: HowToGoOn
) -> None:
    while numbers := signals.recv(64):
        for number in STOPPING:
            if number in numbers and not done.wait(_GRACE_S):
                _end_now(number, out, how_to_go_on)


def _end_now(number: int, out: Path, how_to_go_on: HowToGoOn) -> None:
    holder = read_holder(out)
    if holder is not None and holder.pid == os.getpid():
        with suppress(OSError):
            for path in temporary_files(BuildFolder(out)):
                path.unlink(missing_ok=True)
    for scratch in Path(tempfile.gettempdir()).glob(f"{scratch_prefix()}*"):
        shutil.rmtree(scratch, ignore_errors=True)
    _say(how_to_go_on, out)
    code, word = stopped_by(number)
    print(word, file=sys.stderr, flush=True)
    os._exit(code)


def _say(how_to_go_on: HowToGoOn, out: Path) -> None:
    line = how_to_go_on(BuildFolder(out))
    if line is not None:
        print(line, file=sys.stderr, flush=True)
