"""What a benchmark ends with: latencies, and which precision is the fastest where."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from deploy.cli.tables import table_of
from deploy.report.latency import SweepView, label, milliseconds, per_second, sweep_view


def print_benchmark(results: Mapping[str, Any], backend: str, console: Console) -> None:
    """Print what results.json says of a backend's sweep."""
    for part in _parts(results, backend):
        # Names come from files and may look like markup; Text is printed as it stands.
        console.print(Text(part) if isinstance(part, str) else part)


def _parts(results: Mapping[str, Any], backend: str) -> Iterator[str | Table]:
    view = sweep_view(results, backend)
    yield f"{results['model']} on {view.device}, {view.name}, {view.clock} clock"
    yield ""
    yield _latencies(view)
    if view.crossover:
        yield ""
        yield _crossover(view)
        for line in view.crossover:
            if line.losses:
                yield f"loss at {line.batch} x {line.sequence}: {line.losses}"
    if view.notes:
        yield ""
    yield from view.notes


def _latencies(view: SweepView) -> Table:
    call = {"call ms": True} if view.clock == "device" else {}
    table = table_of(
        {
            "batch": True,
            "sequence": True,
            "precision": False,
            "p50 ms": True,
            "p90": True,
            "p99": True,
            "rows/s": True,
            **call,
        }
    )
    for line in view.lines:
        row = line.row
        table.add_row(
            str(row["batch"]),
            str(row["sequence"]),
            label(row, view.name) + ("*" if row["simulated"] else ""),
            milliseconds(row["p50_ms"]) + ("" if row["trusted"] else "?"),
            milliseconds(row["p90_ms"]),
            milliseconds(row["p99_ms"]),
            per_second(row["throughput_per_s"]),
            *([milliseconds(line.call_ms)] if call else []),
        )
    return table


def _crossover(view: SweepView) -> Table:
    # Few of the columns would fit if baselines, with their long names, had one each.
    narrow = [name for name in view.references if " " not in name]
    wide = [name for name in view.references if " " in name]
    table = table_of(
        {
            "batch": True,
            "sequence": True,
            "fastest": False,
            **{f"vs {name}": True for name in narrow},
            **({"vs baselines": False} if wide else {}),
        }
    )
    for line in view.crossover:
        against = dict(zip(view.references, line.against, strict=True))
        baselines = ", ".join(f"{against[name]} {name}" for name in wide if against[name])
        table.add_row(
            str(line.batch),
            str(line.sequence),
            line.fastest,
            *(against[name] for name in narrow),
            *([baselines] if wide else []),
        )
    return table
