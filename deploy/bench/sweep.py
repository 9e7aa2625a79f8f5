"""Measure several contestants over shapes, in turn, so that drift hits all of them alike."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from calib_data.progress import Progress
from deploy.bench.latency import ROUNDS, Latency, Timer, summarize
from deploy.engine.profiles import Shape
from deploy.engine.session import Arrays

# Whatever a first call still has to load or allocate, a third one has not.
_WARMUP_CALLS = 3


@dataclass(frozen=True)
class Contestant:
    """What is compared with others.

    Attributes:
        precision: Of its model.
        backend: What executes it: a backend's name, or a baseline's.
        device: Name of the processor.
        simulated: Whether the precision is only imitated, so that its time says nothing of it.
        cuda_graph: Whether a call replays a CUDA graph.
    """

    precision: str
    backend: str
    device: str
    simulated: bool
    cuda_graph: bool


@dataclass(frozen=True)
class Probe:
    """One way of timing a contestant.

    Attributes:
        contestant: Whose calls are timed.
        host_copies: Whether inputs come from the host's memory and outputs return to it.
        timer: What times a call.
        prepare: Makes the call out of input sets, which it takes in turn.
    """

    contestant: Contestant
    host_copies: bool
    timer: Timer
    prepare: Callable[[Sequence[Arrays]], Callable[[], object]]


@dataclass(frozen=True)
class Effort:
    """How long to measure; both lower limits hold for every probe and shape.

    Attributes:
        iterations: Calls at least.
        seconds: Time in them at least.
        warmup: Seconds of calls that do not count, before all others.
    """

    iterations: int = 100
    seconds: float = 1.0
    warmup: float = 0.2


@dataclass(frozen=True)
class Measurement:
    """The latency of a probe at a shape."""

    probe: Probe
    shape: Shape
    latency: Latency


@dataclass(frozen=True)
class Block:
    """Calls of one probe without a break.

    Attributes:
        shape: Of its inputs.
        round: From 0; in a round every probe has one block.
        probe: Index of the probe.
    """

    shape: Shape
    round: int
    probe: int


def schedule(shapes: Sequence[Shape], probes: int, seed: int) -> list[Block]:
    """The order of all blocks: shape by shape, and in each round every probe once, shuffled."""
    shuffle = random.Random(seed).shuffle
    blocks = []
    for shape in shapes:
        for number in range(ROUNDS):
            order = list(range(probes))
            shuffle(order)
            blocks += [Block(shape, number, probe) for probe in order]
    return blocks


def sweep(
    probes: Sequence[Probe],
    shapes: Sequence[Shape],
    make_inputs: Callable[[Shape], Sequence[Arrays]],
    effort: Effort,
    seed: int,
    progress: Progress,
) -> list[Measurement]:
    """Measure every probe at every shape.

    Args:
        probes: What to measure, and how.
        shapes: Where.
        make_inputs: The input sets of a shape, the same for all probes.
        effort: How long.
        seed: Of the order within the rounds.
        progress: Told of every block.

    Returns:
        By ascending sequence and batch, within a shape in the order of the probes.
    """
    # The largest first: what does not fit into memory fails early, and the time left shrinks.
    largest_first = sorted(shapes, key=lambda shape: -shape.batch * shape.sequence)
    blocks = schedule(largest_first, len(probes), seed)
    measured: list[Measurement] = []
    tracked = progress.track(blocks, "Measuring latency", len(blocks))
    for shape, at_shape in groupby(tracked, key=lambda block: block.shape):
        inputs = make_inputs(shape)
        calls = [probe.prepare(inputs) for probe in probes]
        for probe, call in zip(probes, calls, strict=True):
            _warm_up(probe.timer, call, effort.warmup)
        rounds: list[list[list[float]]] = [[] for _ in probes]
        for block in at_shape:
            timer, call = probes[block.probe].timer, calls[block.probe]
            rounds[block.probe].append(_time_block(timer, call, effort))
        measured += [
            Measurement(probe, shape, summarize(samples, shape.batch))
            for probe, samples in zip(probes, rounds, strict=True)
        ]
    # Stable, so the order of the probes stays.
    return sorted(measured, key=lambda each: (each.shape.sequence, each.shape.batch))


def _warm_up(timer: Timer, call: Callable[[], object], seconds: float) -> None:
    calls, spent = 0, 0.0
    while calls < _WARMUP_CALLS or spent < seconds:
        spent += sum(timer.time(call, 1))
        calls += 1


def _time_block(timer: Timer, call: Callable[[], object], effort: Effort) -> list[float]:
    """A round's share of iterations and seconds."""
    call()  # finds the caches full of another probe's data
    repeats = math.ceil(effort.iterations / ROUNDS)
    samples: list[float] = []
    spent = 0.0
    while not samples or spent < effort.seconds / ROUNDS:
        taken = timer.time(call, repeats)
        spent += sum(taken)
        samples += taken
    return samples
