"""Ctrl-C ends a command that writes a build folder within two seconds, whatever it is deep in.

Python hears of an interrupt between two of its own instructions: not while native code exports,
syncs or compiles. So a thread waits for the signal too, and ends the process if that takes long.
Nothing is lost by it: a folder's manifest vouches for whole files only, at any moment.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from deploy.artifacts import BuildFolder, read_holder, read_manifest, temporary_files
from deploy.errors import BuildFolderError

_INTERRUPTED = 130  # 128 + SIGINT, as shells report it

# Of the two seconds; most of what is running has been unwound by then.
_GRACE_S = 1.5


@contextmanager
def stopping_at_once(out: Path) -> Iterator[None]:
    """Stand around all work of a command on a folder; say how to resume where it is interrupted.

    Args:
        out: The build folder.
    """
    with _watching(out):
        try:
            yield
        except KeyboardInterrupt:
            _say_how_to_resume(out)
            raise


@contextmanager
def _watching(out: Path) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # who alone is interrupted
        yield
        return
    done = threading.Event()
    ours, python = socket.socketpair()
    python.setblocking(False)
    watcher = threading.Thread(
        target=_watch, args=(ours, done, out), name="interrupts", daemon=True
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


def _watch(signals: socket.socket, done: threading.Event, out: Path) -> None:
    while numbers := signals.recv(64):
        if signal.SIGINT in numbers and not done.wait(_GRACE_S):
            _end_now(out)


def _end_now(out: Path) -> None:
    holder = read_holder(out)
    if holder is not None and holder.pid == os.getpid():
        with suppress(OSError):
            for path in temporary_files(BuildFolder(out)):
                path.unlink(missing_ok=True)
    _say_how_to_resume(out)
    print("interrupted", file=sys.stderr, flush=True)
    os._exit(_INTERRUPTED)


def _say_how_to_resume(out: Path) -> None:
    try:
        stage = read_manifest(BuildFolder(out))["unfinished"]
    except BuildFolderError:
        return  # nothing was begun
    if stage is not None:
        print(
            f"stopped in {stage}: run the same command again, and it goes on there",
            file=sys.stderr,
            flush=True,
        )
