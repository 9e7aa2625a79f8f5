"""Follow a TensorRT build, and stop it.

The build runs in a thread of its own. TensorRT releases Python's lock while it works, so the main
thread stays free to hear Ctrl-C, and asks the build to stop at its next step.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# How long an interrupted build is waited for. A build that is deep in one step hears of it later:
# its thread dies with the process, and nothing of it has been written.
_PATIENCE_SECONDS = 1.5

# How often the waiting thread wakes up, so that an interrupt is seen on every platform.
_TICK_SECONDS = 0.1


@dataclass
class _Phase:
    steps: int
    done: int = 0


class BuildProgress:
    """What of a build is done, from TensorRT's nested phases.

    TensorRT reports phases within phases, each with a number of steps of unknown size. A step of a
    phase counts as its share of that phase, and the phase as its share of the step that it stands
    in.
    """

    def __init__(self, show: Callable[[float], None]) -> None:
        self._show = show
        self._phases: dict[str, _Phase] = {}
        self._shown = 0.0

    def start(self, name: str, steps: int) -> None:
        """A phase begins, inside those that have not ended."""
        self._phases[name] = _Phase(max(steps, 1))

    def step(self, name: str, step: int) -> None:
        """A step of a phase is done; steps count from 0."""
        phase = self._phases.get(name)
        if phase is not None:
            phase.done = min(step + 1, phase.steps)
            self._update()

    def finish(self, name: str) -> None:
        """A phase has ended, whether or not all of its steps came."""
        self._phases.pop(name, None)
        if not self._phases:
            self._shown = 1.0
            self._show(1.0)

    def _update(self) -> None:
        done, size = 0.0, 1.0
        for phase in self._phases.values():  # outer ones were started first
            done += size * phase.done / phase.steps
            size /= phase.steps
        # Steps are not as long as each other; a bar must not run backwards for it.
        self._shown = max(self._shown, min(done, 1.0))
        self._show(self._shown)


def make_monitor(trt: Any, progress: BuildProgress, cancelled: threading.Event) -> Any:
    """A `trt.IProgressMonitor` that reports to `progress` and stops the build when told to.

    Args:
        trt: The module of a flavour.
        progress: Told about phases and steps.
        cancelled: Set by whoever wants the build to stop.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            progress.start(phase_name, num_steps)

        def phase_finish(self, phase_name: str) -> None:
            progress.finish(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            progress.step(phase_name, step)
            return not cancelled.is_set()

    return Monitor()


def run_cancellable(work: Callable[[], Any], cancelled: threading.Event) -> Any:
    """Run `work` in a thread, and let an interrupt of this one cancel it.

    Returns:
        What `work` returns.

    Raises:
        KeyboardInterrupt: This thread was interrupted; `cancelled` is set, and `work` has ended or
            dies with the process.
        Exception: Whatever `work` raises.
    """
    outcome: dict[str, Any] = {}
    # An interrupted Thread.join takes the thread for ended; an interrupted Event.wait does not.
    ended = threading.Event()

    def target() -> None:
        try:
            outcome["value"] = work()
        except BaseException as error:
            outcome["error"] = error
        finally:
            ended.set()

    threading.Thread(target=target, name="tensorrt-build", daemon=True).start()
    try:
        while not ended.wait(_TICK_SECONDS):
            pass
    except KeyboardInterrupt:
        cancelled.set()
        ended.wait(_PATIENCE_SECONDS)
        raise
    if "error" in outcome:
        raise outcome["error"]
    return outcome["value"]
