"""Which batches the server should wait for, and how long, by what was measured.

Triton's dynamic batcher (triton-inference-server/core, dynamic_batch_scheduler.cc) sends what is
queued as soon as it makes a preferred size, sends anything at all after the queue delay, and never
makes more than the largest preferred size out of several requests.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# A larger batch must serve this much more a second than the next smaller one that is kept: for
# less, every request in it would be held up by the others for nothing.
MIN_GROWTH = 0.10

# A request that no other joins has waited in vain: at most half as long as it takes itself.
DELAY_SHARE = 0.5


@dataclass(frozen=True)
class Batching:
    """How requests come together.

    Attributes:
        preferred: Batch sizes worth sending, ascending; empty where none is better than one row.
        max_queue_delay_us: How long a request may wait for others, in µs.
        source: Where the two come from, for who reads the configuration.
    """

    preferred: tuple[int, ...]
    max_queue_delay_us: int
    source: str


def choose_batching(
    rows: Iterable[Mapping[str, Any]],
    precision: str,
    backend: str,
    max_batch: int,
    max_queue_delay_us: int | None = None,
) -> Batching:
    """Choose preferred batch sizes and the queue delay of a model.

    Bucket by bucket, batches are looked at by ascending size: one is kept if it serves `MIN_GROWTH`
    more rows a second than the last that was kept, the smallest being the first. What is kept in
    any bucket is preferred, but never a batch of one, which would be sent before a second request
    could join it. The delay is `DELAY_SHARE` of the p50 of the smallest batch in the bucket where
    that is the least.

    Without measurements the powers of two up to `max_batch` are preferred and nobody waits: batches
    then come from what arrives while the model is busy.

    Args:
        rows: `latency` of results.json.
        precision: Of the model.
        backend: What executes it; another backend's latencies say nothing of it.
        max_batch: Largest batch of the model.
        max_queue_delay_us: A delay that was asked for, in place of the derived one.
    """
    curves = _curves(rows, precision, backend, max_batch)
    if not curves:
        powers = {1 << exponent for exponent in range(1, max_batch.bit_length())}
        return Batching(
            preferred=tuple(sorted({*powers, max_batch} - {1})),
            max_queue_delay_us=max_queue_delay_us or 0,
            source="powers of two, since `deploy bench` has not measured this precision on this "
            "backend",
        )
    preferred = {batch for curve in curves.values() for batch in _paying(curve)}
    delay = round(1000 * DELAY_SHARE * min(curve[0].p50_ms for curve in curves.values()))
    sequences = ", ".join(str(sequence) for sequence in curves)
    return Batching(
        preferred=tuple(sorted(preferred)),
        max_queue_delay_us=delay if max_queue_delay_us is None else max_queue_delay_us,
        source=f"measured at {sequences} tokens: each serves {MIN_GROWTH:.0%} more rows a second "
        "than the next smaller one",
    )


@dataclass(frozen=True)
class _Point:
    batch: int
    p50_ms: float
    throughput_per_s: float


def _curves(
    rows: Iterable[Mapping[str, Any]], precision: str, backend: str, max_batch: int
) -> dict[int, list[_Point]]:
    """Throughput over batch, by sequence; each shape's row is the one most like serving.

    That is one with copies from and to the host, and with the CUDA graphs that the server captures.
    """
    best: dict[tuple[int, int], tuple[tuple[bool, bool], _Point]] = {}
    for row in rows:
        if (row["precision"], row["backend"]) != (precision, backend) or not row["trusted"]:
            continue
        if row["simulated"] or row["batch"] > max_batch:
            continue
        key = (row["sequence"], row["batch"])
        rank = (row["host_copies"], row["cuda_graph"])
        point = _Point(row["batch"], row["p50_ms"], row["throughput_per_s"])
        if key not in best or rank > best[key][0]:
            best[key] = (rank, point)
    curves: dict[int, list[_Point]] = {}
    for (sequence, _), (_, point) in sorted(best.items()):
        curves.setdefault(sequence, []).append(point)
    return curves


def _paying(curve: Sequence[_Point]) -> list[int]:
    kept = [curve[0]]
    for point in curve[1:]:
        if point.throughput_per_s >= (1 + MIN_GROWTH) * kept[-1].throughput_per_s:
            kept.append(point)
    return [point.batch for point in kept if point.batch > 1]
