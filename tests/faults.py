"""Every call with which a build changes its folder: counted, and made to fail or to be the last.

The calls of a build come in the same order each time, so a moment is the number of a call, and a
test that stops a build there stops it at the same place on every machine.
"""

from __future__ import annotations

import builtins
import io
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, NoReturn
from unittest import mock

import deploy.stages.run

_HEX = set("0123456789abcdef")


class Moment(NamedTuple):
    """A call, before it is made.

    Attributes:
        stage: The stage that makes it; "start" before all of them.
        kind: "stage", "open", "write", "fsync", "rename" or "unlink".
        file: Path within the folder, without what is random in names of temporary files.
    """

    stage: str
    kind: str
    file: str


At = Callable[[int, Moment], None]


class Calls:
    """The calls on one folder, as they are made.

    Attributes:
        moments: All so far.
        unsynced: Files with content that a power cut would take, under their present names.
    """

    def __init__(self, folder: Path, at: At) -> None:
        """Count.

        Args:
            folder: Of the build.
            at: Given each call with its number before it is made; what it raises, the call raises.
        """
        self.moments: list[Moment] = []
        self.unsynced: set[str] = set()
        self.stage = "start"
        self._folder, self._at = os.path.realpath(folder), at
        self._descriptors: dict[int, str] = {}

    def made(self, kind: str, path: Any) -> None:
        """A call is about to be made."""
        name = "" if kind == "stage" else os.path.relpath(os.fspath(path), self._folder)
        moment = Moment(self.stage, kind, _settled(name))
        self.moments.append(moment)
        self._at(len(self.moments) - 1, moment)

    def ours(self, path: Any) -> str | None:
        """The real path of what lies in the folder, None of anything else."""
        if isinstance(path, int):
            return self._descriptors.get(path)
        try:
            real = os.path.realpath(os.fspath(path))
        except TypeError:
            return None
        return real if real == self._folder or real.startswith(f"{self._folder}/") else None

    def forget(self, descriptor: int) -> None:
        """A descriptor is about to be closed, and may come to be of another file."""
        self._descriptors.pop(descriptor, None)

    @contextmanager
    def watched(self) -> Iterator[Calls]:
        """Take the place of the functions that everything in Python writes with."""
        patches = [
            mock.patch.object(builtins, "open", self._open(io.open)),
            mock.patch.object(io, "open", self._open(io.open)),
            mock.patch.object(os, "open", self._os_open(os.open)),
            mock.patch.object(os, "close", self._os_close(os.close)),
            mock.patch.object(os, "fsync", self._fsync(os.fsync)),
            mock.patch.object(Path, "replace", self._rename(Path.replace)),
            mock.patch.object(Path, "unlink", self._unlink(Path.unlink)),
            mock.patch.object(
                deploy.stages.run.StageRun, "run", self._run(deploy.stages.run.StageRun.run)
            ),
        ]
        for patch in patches:
            patch.start()
        try:
            yield self
        finally:
            for patch in reversed(patches):
                patch.stop()

    def _run(self, run: Any) -> Any:
        def wrapper(stages: Any, stage: Any) -> Any:
            self.stage = stage.name
            self.made("stage", "")
            record = run(stages, stage)
            self.stage = "finish"
            return record

        return wrapper

    def _open(self, opened: Any) -> Any:
        def wrapper(
            file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **more: Any
        ) -> Any:
            path = self.ours(file)
            if path is None:
                return opened(file, mode, buffering, *rest, **more)
            if not isinstance(file, int):
                self.made("open", path)
            if not set(mode) & set("wxa+") or more.get("opener") is not None:
                return opened(file, mode, buffering, *rest, **more)
            raw = _Raw(self, path, file, mode.replace("b", "").replace("t", ""))
            if buffering == 0:
                return raw
            buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
            return buffered if "b" in mode else io.TextIOWrapper(buffered, *rest, **more)

        return wrapper

    def _os_open(self, opened: Any) -> Any:
        def wrapper(path: Any, flags: int, *rest: Any, **more: Any) -> int:
            ours = self.ours(path)
            if ours is not None:
                self.made("open", ours)
            descriptor: int = opened(path, flags, *rest, **more)
            if ours is not None:
                self._descriptors[descriptor] = ours
            return descriptor

        return wrapper

    def _os_close(self, closed: Any) -> Any:
        def wrapper(descriptor: int) -> None:
            self.forget(descriptor)
            closed(descriptor)

        return wrapper

    def _fsync(self, synced: Any) -> Any:
        def wrapper(descriptor: int) -> None:
            path = os.path.realpath(f"/proc/self/fd/{descriptor}")
            if self.ours(path) is not None:
                self.made("fsync", path)
                self.unsynced.discard(path)
            synced(descriptor)

        return wrapper

    def _rename(self, renamed: Any) -> Any:
        def wrapper(path: Path, target: Any) -> Any:
            before, after = self.ours(path), self.ours(target)
            if before is not None and after is not None:
                self.made("rename", after)
                if before in self.unsynced:
                    self.unsynced.discard(before)
                    self.unsynced.add(after)
            return renamed(path, target)

        return wrapper

    def _unlink(self, unlinked: Any) -> Any:
        def wrapper(path: Path, *rest: Any, **more: Any) -> None:
            ours = self.ours(path)
            if ours is not None and os.path.lexists(path):
                self.made("unlink", ours)
                self.unsynced.discard(ours)
            unlinked(path, *rest, **more)

        return wrapper


class _Raw(io.FileIO):
    """A file that is written unbuffered, and tells of it."""

    def __init__(self, calls: Calls, path: str, file: Any, mode: str) -> None:
        super().__init__(file, mode)
        self._calls, self._path = calls, path

    def write(self, content: Any) -> int:
        self._calls.unsynced.add(self._path)
        self._calls.made("write", self._path)
        return super().write(content)

    def close(self) -> None:
        if not self.closed:
            self._calls.forget(self.fileno())
        super().close()


def cut_power(calls: Calls) -> NoReturn:
    """End this process as SIGKILL does, and take half of what no sync has put on disk."""
    for path in calls.unsynced:
        if Path(path).exists():
            os.truncate(path, Path(path).stat().st_size // 2)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def _settled(name: str) -> str:
    if name.startswith("logs/"):  # after the time
        return "logs/~"
    head, _, tail = name.rpartition(".")
    return f"{head}.~" if len(tail) == 32 and set(tail) <= _HEX else name
