"""One session at one shape: how its calls are timed, and what is said of the samples."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

# Samples are taken in this many rounds. Of ten independent medians, the second smallest and the
# second largest enclose the true one with a probability of 1 - 2 * (1 + 10) / 2**10 = 97.9 %
# (order statistics; Conover, Practical Nonparametric Statistics, 3.2).
ROUNDS = 10

# What FP8 gains over FP16 is a few per cent at small shapes and half at large ones. Where a tenth
# of the calls take a quarter longer than the typical one, something else shares the processor;
# where the typical call itself moves by a tenth, its clock or its load changed.
SPREAD_LIMIT = 0.25
DRIFT_LIMIT = 0.10


class Clock(str, Enum):
    """Whose time a latency is: the caller's, or that of the GPU alone."""

    HOST = "host"
    DEVICE = "device"


class Timer(Protocol):
    """Times calls on one clock.

    Attributes:
        clock: Whose time it takes.
    """

    clock: Clock

    def time(self, call: Callable[[], object], repeats: int) -> list[float]:
        """Seconds of each of `repeats` calls, made one after the other."""


class HostTimer:
    """The time that a caller waits for a call that returns when its result is there."""

    clock = Clock.HOST

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now

    def time(self, call: Callable[[], object], repeats: int) -> list[float]:
        """Seconds of each call; see `Timer.time`."""
        seconds = []
        for _ in range(repeats):
            began = self._now()
            call()
            seconds.append(self._now() - began)
        return seconds


class CudaTimer:
    """The time that a stream needs for a call, by CUDA events from completion to completion.

    The calls are queued without waiting. A GPU that was idle would time the host's way to its
    first kernel as well, so one call goes ahead of those that count. What the host cannot launch
    fast enough shows all the same: that is what a CUDA graph is for.
    """

    clock = Clock.DEVICE

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self._stream = stream

    def time(self, call: Callable[[], object], repeats: int) -> list[float]:
        """Seconds of each call; see `Timer.time`."""
        import torch

        cuda: Any = torch.cuda  # partly untyped
        events = [cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
        call()
        events[0].record(self._stream)
        for event in events[1:]:
            call()
            event.record(self._stream)
        events[-1].synchronize()
        return [begin.elapsed_time(end) / 1e3 for begin, end in pairwise(events)]


@dataclass(frozen=True)
class Latency:
    """What the samples of one session at one shape say.

    Attributes:
        p50_ms: Median of all calls, in milliseconds.
        p90_ms: 90th percentile.
        p95_ms: 95th percentile.
        p99_ms: 99th percentile; of 100 calls, hardly more than the slowest one.
        mean_ms: Mean.
        throughput_per_s: Rows per second of one caller that makes call after call.
        iterations: Number of calls.
        spread: (p90 - p50) / p50.
        drift: Width of the median's interval over the rounds, relative to p50.
        round_p50_ms: Median of every round, in milliseconds.
        distrust: Why the numbers should not be relied on; None where nothing speaks against it.
    """

    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    mean_ms: float
    throughput_per_s: float
    iterations: int
    spread: float
    drift: float
    round_p50_ms: tuple[float, ...]
    distrust: str | None

    @property
    def trusted(self) -> bool:
        """Whether spread and drift are within their limits."""
        return self.distrust is None


def summarize(rounds: Sequence[Sequence[float]], batch: int) -> Latency:
    """Describe samples.

    Args:
        rounds: Seconds of every call, by round; at least three rounds, none empty.
        batch: Rows in a call.
    """
    import numpy as np

    samples = 1e3 * np.concatenate([np.asarray(each, dtype=np.float64) for each in rounds])
    p50, p90, p95, p99 = (float(value) for value in np.percentile(samples, (50, 90, 95, 99)))
    medians = tuple(1e3 * float(np.median(each)) for each in rounds)
    low, high = median_interval(medians)
    mean = float(samples.mean())
    spread, drift = (p90 - p50) / p50, (high - low) / p50
    return Latency(
        p50_ms=p50,
        p90_ms=p90,
        p95_ms=p95,
        p99_ms=p99,
        mean_ms=mean,
        throughput_per_s=1e3 * batch / mean,
        iterations=len(samples),
        spread=spread,
        drift=drift,
        round_p50_ms=medians,
        distrust=_distrust(spread, drift),
    )


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Second smallest and second largest value: of `ROUNDS` values, the median's 98 % interval."""
    ordered = sorted(values)
    return ordered[1], ordered[-2]


def _distrust(spread: float, drift: float) -> str | None:
    reasons = []
    if drift > DRIFT_LIMIT:
        reasons.append(f"the typical call moved by {100 * drift:.0f} % between rounds")
    if spread > SPREAD_LIMIT:
        reasons.append(f"a tenth of the calls took over {100 * spread:.0f} % longer than p50")
    return "; ".join(reasons) or None
