"""Builds in processes of their own that need not import anything first: `BuildServer`.

Run as a program, it imports what a build needs, builds once, and then forks a process for every
build that it is asked for, each of which may be told to die at one of its calls.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from faults import Calls, Moment, cut_power
from small_builds import build_into, warm_up

from calib_data.errors import ToolchainError


class BuildServer:
    """The program in another process; a context manager."""

    def __init__(self, options: Mapping[str, Any], scratch: Path) -> None:
        """Start it.

        Args:
            options: Of all builds.
            scratch: A folder to be made and removed.
        """
        self._process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(dict(options)), str(scratch)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            },
        )

    def run(self, *builds: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Build, all at once.

        Args:
            builds: Each with `out`, and where wanted `options`, `delay` (seconds), and where to
                die: `stop_at` (number of a call) or `stop_in` (stage, and number of a call in it);
                or what call is to fail: `fail_at` (its number, and an errno).

        Returns:
            Of each its `pid`; `moments`, all calls it made; `error`, what stopped it or None; and
            `killed`.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(builds), file=self._process.stdin, flush=True)
        found: list[dict[str, Any]] = json.loads(self._process.stdout.readline())
        for each in found:
            each["moments"] = [Moment(*moment) for moment in each["moments"]]
        return found

    def __enter__(self) -> BuildServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.communicate()


def _serve(options: dict[str, Any], scratch: Path) -> None:
    # Forked processes would write what is buffered here once more.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warm_up(options, scratch)
    _import_what_builds_engines()
    for line in sys.stdin:
        started = [_start(options, asked) for asked in json.loads(line)]
        print(json.dumps([_finish(*each) for each in started]), file=answers, flush=True)


def _start(options: dict[str, Any], asked: dict[str, Any]) -> tuple[int, int]:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            _build(options, asked, writing)
        finally:
            os._exit(0)
    os.close(writing)
    return child, reading


def _build(options: dict[str, Any], asked: dict[str, Any], answer: int) -> None:
    time.sleep(asked.get("delay", 0.0))
    out = Path(asked["out"])

    def at(number: int, moment: Moment) -> None:
        in_stage = sum(each.stage == moment.stage for each in calls.moments) - 1
        if number == asked.get("stop_at") or [moment.stage, in_stage] == asked.get("stop_in"):
            tell(None)
            cut_power(calls)
        if [number] == asked.get("fail_at", [])[:1]:
            code = asked["fail_at"][1]
            raise OSError(code, os.strerror(code))

    def tell(error: str | None) -> None:
        found = {"pid": os.getpid(), "moments": calls.moments, "error": error}
        os.write(answer, json.dumps(found).encode())

    calls = Calls(out, at)
    error = None
    with calls.watched():
        try:
            build_into(out, {**options, **asked.get("options", {})})
        except ToolchainError as failure:
            error = failure.message
        except Exception as failure:
            error = f"unexpected {failure!r}"
    tell(error)


def _finish(child: int, reading: int) -> dict[str, Any]:
    with os.fdopen(reading) as answer:
        found: dict[str, Any] = json.loads(answer.read())
    _, status = os.waitpid(child, 0)
    return {**found, "killed": os.WIFSIGNALED(status)}


def _import_what_builds_engines() -> None:
    try:
        import tensorrt_rtx  # noqa: F401
    except ImportError:
        return


if __name__ == "__main__":
    _serve(json.loads(sys.argv[1]), Path(sys.argv[2]))
