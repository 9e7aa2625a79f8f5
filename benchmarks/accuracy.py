"""The accuracy table: FP32, FP16 and every preset recipe, on every checkpoint and calibration seed.

Development sets, executed by onnxruntime on the CPU: FP32 as it is, the others *simulated*, that is
the engine's own weights, scales and 8-bit codes, multiplied in FP32.

    python benchmarks/accuracy.py --checkpoint CHECKPOINTS/minilm-mrpc:mrpc \
        --checkpoint CHECKPOINTS/minilm-squad:squad --data-dir DATA --seeds 0,1,2 --jobs 4 \
        --json accuracy.json --markdown accuracy.md

On a GPU of compute capability 8.9 or later, `--backend torch` executes every FP16 and 8-bit graph
on its tensor cores as well, and sets it beside onnxruntime's simulation of the same file:

    python benchmarks/accuracy.py --backend torch --recipes fp8,int8 --json gpu.json \
        --checkpoint CHECKPOINTS/minilm-squad:squad --data-dir DATA

Every cell is written to the JSON file as soon as it is known, and a cell that is there is not
evaluated again: it is the same if checkpoint, data, recipe, seed, calibration samples and package
versions are. After a change to this project's code, start with a new file.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from accuracy_cells import (
    Bench,
    Cell,
    Job,
    inputs_of,
    make_cell,
    prepare,
    recipes_named,
    run_all,
    run_job,
)
from accuracy_gpu import GpuBench, cell_kinds
from accuracy_tables import print_summary, render_markdown, summarize

from calib_data.errors import ToolchainError
from calib_data.progress import Progress
from calib_data.sampler import fingerprint
from deploy.artifacts import read_json, write_json, write_text
from deploy.cli.output import (
    LogLevel,
    TerminalProgress,
    error_console,
    only_results_on_stdout,
    result_console,
    set_up_logging,
)
from deploy.engine.session import Backend, Precision
from deploy.environment import describe_environment, installed_versions
from deploy.inputs import BuildInputs
from export.recipe import PRESETS, recipe_to_dict


class Store:
    """The cells that are known, in memory and in the JSON file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._cells: list[Cell] = read_json(path)["cells"] if path.is_file() else []

    def find(self, identity: dict[str, Any]) -> Cell | None:
        """The cell that is identical in all that decides its content."""
        return next((cell for cell in self._cells if cell["identity"] == identity), None)

    def add(self, cell: Cell) -> None:
        """Keep a cell, and write all."""
        # So that a cell is the same whether it was made or read: JSON knows no tuples.
        cell = json.loads(json.dumps(cell))
        self._cells = [kept for kept in self._cells if kept["identity"] != cell["identity"]]
        self._cells.append(cell)
        self.write([])

    def write(self, asked: Sequence[Cell]) -> None:
        """Write every cell, and the summary of those that were asked for."""
        content = {
            "schema_version": 1,
            "environment": describe_environment(),
            "summary": summarize(asked),
            "cells": self._cells,
        }
        write_json(self._path, content)


def main() -> None:
    """Fill the table, and print it."""
    options = parse_options(sys.argv[1:])
    console = error_console()
    set_up_logging(LogLevel.WARNING, console)
    with only_results_on_stdout():
        cells, failures = fill(options, TerminalProgress(console))
    print_summary(cells, result_console())
    for failure in failures:
        console.print(f"error: {failure}", markup=False)
    sys.exit(1 if failures else 0)


def parse_options(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--checkpoint", action="append", required=True, metavar="PATH:TASK", help="may be repeated"
    )
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument(
        "--recipes",
        type=recipes_named,
        default=tuple(PRESETS.values()),
        help=f"any of {','.join(PRESETS)}; default: all",
    )
    parser.add_argument("--seeds", type=_seeds, default=(0,), help="such as 0,1,2")
    parser.add_argument("--calib-samples", type=int, default=256)
    parser.add_argument("--limit", type=int, help="evaluate that many examples")
    parser.add_argument(
        "--backend",
        choices=[Backend.ONNXRUNTIME.value, Backend.TORCH.value],
        default=Backend.ONNXRUNTIME.value,
        help="torch: execute on the GPU, too",
    )
    parser.add_argument("--jobs", type=int, default=1, help="evaluations at a time")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--markdown", type=Path)
    return parser.parse_args(arguments)


def fill(options: argparse.Namespace, progress: Progress) -> tuple[list[Cell], list[str]]:
    """Evaluate what is not known yet, and write JSON and Markdown.

    Returns:
        The cells asked for, in the order of the table, and a line for each that failed.
    """
    store = Store(options.json)
    cells: list[Cell] = []
    failures: list[str] = []
    for checkpoint in options.checkpoint:
        found, failed = measure(checkpoint, options, store, progress)
        cells += found
        failures += failed
    store.write(cells)
    if options.markdown:
        write_text(options.markdown, render_markdown(cells, describe_environment()))
    return cells, failures


def _seeds(text: str) -> tuple[int, ...]:
    return tuple(dict.fromkeys(int(seed) for seed in text.split(",")))


def measure(
    checkpoint: str, options: argparse.Namespace, store: Store, progress: Progress
) -> tuple[list[Cell], list[str]]:
    """Fill the rows of one checkpoint.

    Args:
        checkpoint: PATH:TASK.
        options: As the command line has them.
        store: Takes every cell as soon as it is known.
        progress: Told about everything that takes over a second.

    Returns:
        The cells in the order of the table, and a line for each that failed.
    """
    source, _, task = checkpoint.rpartition(":")
    name = Path(source).name
    inputs = inputs_of(checkpoint, options.data_dir, options.limit, progress)
    jobs = list(_jobs(options))
    identities = _identities(inputs, jobs, options.calib_samples)
    on_gpu = options.backend == Backend.TORCH.value
    wanted = [
        [{**identity, **kind} for kind in (cell_kinds(job) if on_gpu else [{}])]
        for job, identity in zip(jobs, identities, strict=True)
    ]
    missing = [
        job
        for job, cells in zip(jobs, wanted, strict=True)
        if any(store.find(identity) is None for identity in cells)
    ]
    failures: list[str] = []
    if missing:
        with tempfile.TemporaryDirectory() as folder:
            bench = prepare(Path(folder), inputs, missing, options.calib_samples, progress)
            outcomes = (
                _execute(bench, missing, progress)
                if on_gpu
                else _simulate(bench, jobs[0], missing, options.jobs, progress)
            )
            for job, index, outcome in outcomes:
                if isinstance(outcome, str):
                    failures.append(f"{name}: {outcome}")
                else:
                    identity = wanted[jobs.index(job)][index]
                    store.add({"model": name, "task": task, "identity": identity, **outcome})
    known = (store.find(identity) for cells in wanted for identity in cells)
    return [cell for cell in known if cell], failures


def _simulate(
    bench: Bench, fp32: Job, jobs: Sequence[Job], at_once: int, progress: Progress
) -> Iterator[tuple[Job, int, Cell | str]]:
    """Each job's one cell, or why there is none."""
    # All others are compared with its predictions, so it runs even where its cell is known.
    run = run_job(bench, fp32, progress)
    bench = replace(bench, reference=run.predictions)
    yield fp32, 0, make_cell(bench, fp32, run)
    rest = [job for job in jobs if job is not fp32]
    for job, outcome in run_all(bench, rest, at_once, progress):
        yield job, 0, outcome


def _execute(
    bench: Bench, jobs: Sequence[Job], progress: Progress
) -> Iterator[tuple[Job, int, Cell | str]]:
    """Each job's cells, in the order of `cell_kinds`, or why there are none."""
    gpu = GpuBench(bench, progress)
    for job in jobs:
        try:
            for index, cell in enumerate(gpu.cells(job)):
                yield job, index, cell
        except ToolchainError as error:
            yield job, 0, f"{job.name}, seed {job.seed}: {error.message}; {error.remedy}"


def _jobs(options: argparse.Namespace) -> Iterator[Job]:
    yield Job(Precision.FP32)
    yield Job(Precision.FP16)
    for recipe in options.recipes:
        for seed in options.seeds:
            yield Job(Precision(recipe.format.value), recipe, seed)


def _identities(
    inputs: BuildInputs, jobs: Sequence[Job], calib_samples: int
) -> list[dict[str, Any]]:
    """All that decides each cell's content, as plain data."""
    shared = {
        "model_fingerprint": inputs.checkpoint.fingerprint,
        "task": inputs.task.name,
        "data_fingerprint": fingerprint(inputs.dev.features),
        "packages": {
            name: found
            for name, found in installed_versions().items()
            if found and not name.startswith("tensorrt")
        },
    }
    return [
        {
            **shared,
            "precision": job.precision.value,
            "recipe": recipe_to_dict(job.recipe) if job.recipe else None,
            "calibration": {"samples": calib_samples, "seed": job.seed} if job.recipe else None,
        }
        for job in jobs
    ]


if __name__ == "__main__":
    main()
