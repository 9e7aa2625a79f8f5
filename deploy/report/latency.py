"""What the terminal and report.md say of latencies, from results.json alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True)
class LatencyLine:
    """One contestant at one shape.

    Attributes:
        row: Its row of results.json that is compared with others'.
        call_ms: p50 of the whole call, host copies included.
    """

    row: Row
    call_ms: float | None


@dataclass(frozen=True)
class CrossoverLine:
    """The comparison at one shape.

    Attributes:
        batch: Rows.
        sequence: Tokens.
        fastest: Who; several if they tie.
        against: How much faster that is than each reference, in the order of `references`.
        losses: Where a contestant is slower than one that computes in as wide a type or a wider.
    """

    batch: int
    sequence: int
    fastest: str
    against: tuple[str, ...]
    losses: str


@dataclass(frozen=True)
class SweepView:
    """What was measured with one backend, its baselines included.

    Attributes:
        name: The backend.
        device: The processor of its sessions.
        clock: Whose time p50 and the comparison are: "host" or "device".
        lines: The latencies, by sequence, batch and order of measurement.
        references: Names of the columns of `CrossoverLine.against`.
        crossover: The comparison; empty where there was nothing to compare.
        notes: Sentences that both tables need.
    """

    name: str
    device: str
    clock: str
    lines: tuple[LatencyLine, ...]
    references: tuple[str, ...]
    crossover: tuple[CrossoverLine, ...]
    notes: tuple[str, ...]


def sweep_views(results: Mapping[str, Any]) -> tuple[SweepView, ...]:
    """Everything that was measured, a view for each backend."""
    names = dict.fromkeys(row["sweep"] for row in results["latency"])
    return tuple(sweep_view(results, name) for name in names)


def sweep_view(results: Mapping[str, Any], name: str) -> SweepView:
    """What was measured with a backend."""
    rows = [row for row in results["latency"] if row["sweep"] == name]
    compared = [row for row in results["crossover"] if row["sweep"] == name]
    clock = "device" if any(row["clock"] == "device" for row in rows) else "host"
    lines = tuple(_lines(rows, clock))
    named = {
        label(each, name)
        for row in compared
        for entry in row["entries"]
        for each in entry["speedups"]
    }
    # In the order of measurement, which has the baselines last.
    references = tuple(
        dict.fromkeys(called for row in rows if (called := label(row, name)) in named)
    )
    return SweepView(
        name=name,
        device=rows[0]["device"],  # the sessions come before the baselines
        clock=clock,
        lines=lines,
        references=references,
        crossover=tuple(_crossover_line(row, references) for row in compared),
        notes=tuple(_notes(rows, lines, compared, clock)),
    )


def label(row: Row, sweep: str) -> str:
    """What a contestant of a sweep is called: its precision, and a baseline's name before it."""
    if row["backend"] == sweep:
        return str(row["precision"])
    return f"{row['backend']} {row['precision']}"


def times(ratio: float) -> str:
    """A speedup, such as 1.32x."""
    return f"{ratio:.2f}x"


def milliseconds(value: float | None) -> str:
    """Three significant digits at least; nothing for None."""
    if value is None:
        return ""
    return f"{value:.3f}" if value < 10 else f"{value:.2f}" if value < 100 else f"{value:.1f}"


def per_second(value: float) -> str:
    """Rows per second."""
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _lines(rows: Sequence[Row], clock: str) -> list[LatencyLine]:
    """One line a contestant and shape: on `clock`, with a CUDA graph where it has one."""
    chosen: dict[tuple[Any, ...], Row] = {}
    calls: dict[tuple[Any, ...], float] = {}
    for row in rows:
        # A contestant without a device clock is shown by the host's.
        key = (row["batch"], row["sequence"], row["backend"], row["precision"])
        known = chosen.get(key)
        if known is None or _rank(row, clock) > _rank(known, clock):
            chosen[key] = row
        if row["host_copies"] and (key not in calls or row["cuda_graph"]):
            calls[key] = row["p50_ms"]
    return [LatencyLine(row, calls.get(key)) for key, row in chosen.items()]


def _rank(row: Row, clock: str) -> tuple[bool, bool]:
    return row["clock"] == clock, row["cuda_graph"]


def _crossover_line(row: Row, references: Sequence[str]) -> CrossoverLine:
    entries, sweep = row["entries"], row["sweep"]
    against = {label(each, sweep): each for each in entries[0]["speedups"]}
    return CrossoverLine(
        batch=row["batch"],
        sequence=row["sequence"],
        fastest=" = ".join(label(entry, sweep) for entry in entries if entry["fastest"]),
        against=tuple(_cell(against.get(name)) for name in references),
        losses=", ".join(
            f"{label(entry, sweep)} {times(each['ratio'])}: slower than {label(each, sweep)}"
            for entry in entries
            if entry["backend"] == sweep  # a baseline that is slower is no loss
            for each in entry["speedups"]
            if each["loss"]
        ),
    )


def _cell(speedup: Row | None) -> str:
    if speedup is None:
        return ""
    return "tie" if speedup["verdict"] == "tie" else times(speedup["ratio"])


def _notes(
    rows: Sequence[Row], lines: Sequence[LatencyLine], compared: Sequence[Row], clock: str
) -> list[str]:
    notes = []
    if clock == "device":
        notes.append(
            "p50 to p99: the GPU's time, with a CUDA graph where there is one; call: what a caller "
            "waits, host copies included"
        )
    imitated = dict.fromkeys(row["precision"] for row in rows if row["simulated"])
    if imitated:
        notes.append(
            f"* simulated: {', '.join(imitated)} in another arithmetic, whose time says nothing of "
            "an engine's; left out of the comparison"
        )
    doubtful = [line.row for line in lines if not line.row["trusted"]]
    if doubtful:
        worst = max(doubtful, key=lambda row: max(row["spread"], row["drift"]))
        notes.append(
            f"? spread too large to trust in {len(doubtful)} of {len(lines)} rows; the worst, "
            f"{label(worst, worst['sweep'])} at {worst['batch']} x {worst['sequence']}: "
            f"{worst['distrust']}"
        )
    if not compared:
        notes.append("nothing to compare: it takes two contestants that are not simulated")
    return notes
