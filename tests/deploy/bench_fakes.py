"""Contestants on a clock that only moves when they work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from deploy.bench.latency import Clock, HostTimer, Timer, summarize
from deploy.bench.sweep import Contestant, Measurement, Probe
from deploy.engine.profiles import Shape

SHAPE = Shape(8, 128)


class FakeClock:
    """Seconds; every one of them lasts `slowness(now)` seconds."""

    def __init__(self, slowness: Callable[[float], float] = lambda now: 1.0) -> None:
        self.now = 0.0
        self._slowness = slowness

    def work(self, seconds: float) -> None:
        self.now += seconds * self._slowness(self.now)

    def timer(self) -> HostTimer:
        return HostTimer(now=lambda: self.now)


class DeviceTimer:
    """Stands for a timer on the GPU's clock, where only that it is one matters."""

    clock = Clock.DEVICE

    def time(self, call: Callable[[], object], repeats: int) -> list[float]:
        raise AssertionError("nothing is timed")


def contestant(
    precision: str, backend: str = "tensorrt", simulated: bool = False, cuda_graph: bool = False
) -> Contestant:
    return Contestant(precision, backend, "a processor", simulated, cuda_graph)


def probe_of(
    who: Contestant, timer: Timer, call: Callable[[Any], object] = lambda inputs: None
) -> Probe:
    def prepare(inputs: Sequence[Any]) -> Callable[[], object]:
        return lambda: call(inputs)

    return Probe(who, timer.clock is Clock.HOST, timer, prepare)


def measured(
    who: Contestant, *rounds_ms: float, timer: Timer | None = None, shape: Shape = SHAPE
) -> Measurement:
    """A measurement with these round medians, or ten of one value."""
    rounds = rounds_ms * 10 if len(rounds_ms) == 1 else rounds_ms
    latency = summarize([[ms / 1e3] for ms in rounds], shape.batch)
    return Measurement(probe_of(who, timer or HostTimer()), shape, latency)
