"""Which precision is the fastest at each shape, by how much, and where one loses."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import groupby

from deploy.bench.latency import Clock, median_interval
from deploy.bench.sweep import Contestant, Measurement
from deploy.engine.profiles import Shape
from deploy.engine.session import Backend, Precision

# Half of all comparisons between sessions of one and the same model differ by over 1.5 %
# (docs/benchmarking.md, "Ties"): where their memory lies is enough.
MIN_DIFFERENCE = 0.02

# Others are held against these; which of two 8-bit formats is faster shows in the fastest one.
_REFERENCES = frozenset({Precision.FP32.value, Precision.FP16.value})

# Anything else is a baseline.
_BACKENDS = frozenset(backend.value for backend in Backend)

_BITS = {"fp32": 32, "fp16": 16, "int8": 8, "fp8": 8}


class Verdict(str, Enum):
    """How one contestant's time compares with another's."""

    FASTER = "faster"
    SLOWER = "slower"
    TIE = "tie"


@dataclass(frozen=True)
class Speedup:
    """One contestant against another.

    Attributes:
        reference: The other one.
        ratio: The other's time over this one's; above 1, this one is faster.
        interval: 98 % interval of the ratio, over rounds.
        verdict: A tie if the interval holds 1, or the ratio is within `MIN_DIFFERENCE` of it.
        loss: Whether this one, no baseline, is slower although it computes in no wider type.
    """

    reference: Contestant
    ratio: float
    interval: tuple[float, float]
    verdict: Verdict
    loss: bool


@dataclass(frozen=True)
class Entry:
    """A contestant at one shape.

    Attributes:
        contestant: Who.
        p50_ms: Its median latency.
        speedups: Against every other contestant of FP32 or FP16.
        fastest: Whether none is faster; more than one if they tie.
    """

    contestant: Contestant
    p50_ms: float
    speedups: tuple[Speedup, ...]
    fastest: bool


@dataclass(frozen=True)
class Crossover:
    """The comparison at one shape.

    Attributes:
        shape: Batch and sequence.
        clock: What was compared: the device's time where it is known.
        host_copies: Whether it includes copies from and to the host.
        entries: By ascending latency.
    """

    shape: Shape
    clock: Clock
    host_copies: bool
    entries: tuple[Entry, ...]


def crossover(measurements: Sequence[Measurement]) -> tuple[Crossover, ...]:
    """Compare the contestants of one sweep at each of its shapes.

    What is simulated is left out. Of a contestant that was measured with and without a CUDA graph,
    the former counts. On a GPU, the device's clock is compared, without host copies.

    Args:
        measurements: Of one sweep: their rounds were taken in turn, so that the ratio within a
            round is free of drift.

    Returns:
        One for each shape, in order; none where fewer than two contestants are left.
    """
    real = [each for each in measurements if not each.probe.contestant.simulated]
    on_device = any(each.probe.timer.clock is Clock.DEVICE for each in real)
    clock = Clock.DEVICE if on_device else Clock.HOST
    compared = [
        each
        for each in real
        if each.probe.timer.clock is clock and each.probe.host_copies is not on_device
    ]
    found = []
    for shape, at_shape in groupby(compared, key=lambda each: each.shape):
        ranked = sorted(_best_mode(at_shape), key=lambda each: each.latency.p50_ms)
        if len(ranked) > 1:
            entries = tuple(_entry(each, ranked) for each in ranked)
            found.append(Crossover(shape, clock, not on_device, entries))
    return tuple(found)


def _best_mode(measurements: Iterable[Measurement]) -> list[Measurement]:
    """One measurement a model and backend: with a CUDA graph where there is one."""
    best: dict[tuple[str, str], Measurement] = {}
    for each in measurements:
        contestant = each.probe.contestant
        name = (contestant.precision, contestant.backend)
        if name not in best or contestant.cuda_graph:
            best[name] = each
    return list(best.values())


def _entry(measured: Measurement, ranked: Sequence[Measurement]) -> Entry:
    contestant = measured.probe.contestant
    return Entry(
        contestant=contestant,
        p50_ms=measured.latency.p50_ms,
        speedups=tuple(
            _speedup(measured, other)
            for other in ranked
            if other is not measured and other.probe.contestant.precision in _REFERENCES
        ),
        fastest=(
            measured is ranked[0] or _speedup(measured, ranked[0]).verdict is not Verdict.SLOWER
        ),
    )


def _speedup(measured: Measurement, reference: Measurement) -> Speedup:
    """Compare two measurements at one shape, round by round."""
    contestant, other = measured.probe.contestant, reference.probe.contestant
    ratios = [
        theirs / ours
        for ours, theirs in zip(
            measured.latency.round_p50_ms, reference.latency.round_p50_ms, strict=True
        )
    ]
    ratio, interval = statistics.median(ratios), median_interval(ratios)
    verdict = _verdict(ratio, interval)
    loss = (
        verdict is Verdict.SLOWER
        and contestant.backend in _BACKENDS
        and _BITS[contestant.precision] <= _BITS[other.precision]
    )
    return Speedup(other, ratio, interval, verdict, loss)


def _verdict(ratio: float, interval: tuple[float, float]) -> Verdict:
    low, high = interval
    if low <= 1.0 <= high or abs(ratio - 1.0) < MIN_DIFFERENCE:
        return Verdict.TIE
    return Verdict.FASTER if ratio > 1.0 else Verdict.SLOWER
