"""The accuracy table: FP32, FP16 and every preset recipe, on every checkpoint and calibration seed.

Development sets, executed by onnxruntime on the CPU: FP32 as it is, the others *simulated*, that is
the engine's own weights, scales and 8-bit codes, multiplied in FP32.

    python benchmarks/accuracy.py --checkpoint CHECKPOINTS/minilm-mrpc:mrpc \
        --checkpoint CHECKPOINTS/minilm-squad:squad --data-dir DATA --seeds 0,1,2 --jobs 4 \
        --json accuracy.json --markdown accuracy.md

Every cell is written to the JSON file as soon as it is known, and a cell that is there is not
evaluated again: it is the same if checkpoint, data, recipe, seed, calibration samples and package
versions are. After a change to this project's code, start with a new file.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from accuracy_tables import print_summary, render_markdown, summarize

from calib_data.errors import ToolchainError
from calib_data.features import tokenize
from calib_data.progress import Progress, SilentProgress
from calib_data.sampler import CalibrationSet, fingerprint, sample_examples
from deploy.artifacts import read_json, write_json, write_text
from deploy.cli.output import (
    LogLevel,
    TerminalProgress,
    error_console,
    only_results_on_stdout,
    result_console,
    set_up_logging,
)
from deploy.config import config_from_dict
from deploy.engine.ort import OrtSession
from deploy.engine.profiles import Profile, bucket_profiles
from deploy.engine.session import Precision
from deploy.environment import describe_environment, installed_versions
from deploy.evaluate.compare import compare
from deploy.evaluate.harness import EvaluationSet, Run, evaluate
from deploy.evaluate.predictions import Predictions
from deploy.inputs import BuildInputs, load_inputs
from export.calibrate import calibrate
from export.calibration_table import read_table, table_to_json
from export.checkpoint import load_checkpoint
from export.onnx_export import export_onnx
from export.onnx_file import read_onnx, write_onnx
from export.precision import FloatType, cast_floats
from export.qdq import insert_qdq
from export.recipe import PRESETS, QuantRecipe, recipe_to_dict

_MAX_BATCH = 32

Cell = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One cell of the table that is to be filled.

    Attributes:
        precision: Of the model.
        recipe: How it is quantized; None for FP32 and FP16.
        seed: Of the calibration sample; None where nothing is quantized.
    """

    precision: Precision
    recipe: QuantRecipe | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Bench:
    """What all cells of one checkpoint share; goes to other processes.

    Attributes:
        folder: Holds model.fp32.onnx, and the calibration table of each seed.
        model_fingerprint: Of the checkpoint.
        data: The development set.
        profiles: Shapes to run.
        reference: FP32's predictions; None while FP32 itself is evaluated.
    """

    folder: Path
    model_fingerprint: str
    data: EvaluationSet
    profiles: tuple[Profile, ...]
    reference: Predictions | None = None

    @property
    def fp32(self) -> Path:
        """The graph that all others are made from."""
        return self.folder / "model.fp32.onnx"

    def table(self, seed: int) -> Path:
        """The calibration of a seed."""
        return self.folder / f"calibration.{seed}.json"


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
        type=_recipes,
        default=tuple(PRESETS.values()),
        help=f"any of {','.join(PRESETS)}; default: all",
    )
    parser.add_argument("--seeds", type=_seeds, default=(0,), help="such as 0,1,2")
    parser.add_argument("--calib-samples", type=int, default=256)
    parser.add_argument("--limit", type=int, help="evaluate that many examples")
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


def _recipes(text: str) -> tuple[QuantRecipe, ...]:
    names = text.split(",")
    if unknown := sorted(set(names) - PRESETS.keys()):
        raise argparse.ArgumentTypeError(
            f"no recipe '{unknown[0]}'; there are {', '.join(PRESETS)}"
        )
    return tuple(PRESETS[name] for name in names)


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
    config = {"model": source, "task": task, "data_dir": options.data_dir, "limit": options.limit}
    # `out` has to be named, but nothing is built there.
    plain = {**config, "out": ".", "engine": "none", "precision": "fp8,int8,fp16"}
    inputs = load_inputs(config_from_dict(plain), progress)
    jobs = list(_jobs(options))
    identities = _identities(inputs, jobs, options.calib_samples)
    missing = [
        (job, identity)
        for job, identity in zip(jobs, identities, strict=True)
        if store.find(identity) is None
    ]
    failures: list[str] = []
    if missing:
        with tempfile.TemporaryDirectory() as folder:
            bench = _prepare(Path(folder), inputs, [job for job, _ in missing], options, progress)
            labels = {"model": name, "task": task}
            # All others are compared with its predictions, so it runs even where its cell is known.
            run = run_job(bench, jobs[0], progress)
            bench = replace(bench, reference=run.predictions)
            store.add({**labels, "identity": identities[0], **_cell(bench, jobs[0], run)})
            rest = [(job, identity) for job, identity in missing if job is not jobs[0]]
            for identity, outcome in _run_all(bench, rest, options.jobs, progress):
                if isinstance(outcome, str):
                    failures.append(f"{name}: {outcome}")
                else:
                    store.add({**labels, "identity": identity, **outcome})
    return [cell for identity in identities if (cell := store.find(identity))], failures


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


def _prepare(
    folder: Path,
    inputs: BuildInputs,
    missing: Sequence[Job],
    options: argparse.Namespace,
    progress: Progress,
) -> Bench:
    """Export once, and calibrate once for every seed that is needed."""
    profiles = bucket_profiles(inputs.buckets, _MAX_BATCH)
    bench = Bench(folder, inputs.checkpoint.fingerprint, inputs.dev, profiles)
    with progress.status("Exporting to ONNX"):
        write_onnx(export_onnx(inputs.checkpoint, inputs.task.head), bench.fp32)
    for seed in sorted({job.seed for job in missing if job.seed is not None}):
        # Calibration leaves its quantizers in the model, so each seed gets a model of its own.
        checkpoint = load_checkpoint(inputs.checkpoint.source, inputs.task)
        examples = sample_examples(inputs.train, options.calib_samples, seed)
        features = tokenize(inputs.task, checkpoint.tokenizer, examples, inputs.max_length)
        data = CalibrationSet(features, seed, fingerprint(features))
        table = calibrate(checkpoint, inputs.task, data, progress)
        write_text(bench.table(seed), table_to_json(table))
    return bench


def _run_all(
    bench: Bench, jobs: Sequence[tuple[Job, dict[str, Any]]], at_once: int, progress: Progress
) -> Iterator[tuple[dict[str, Any], Cell | str]]:
    """Evaluate, each cell with its identity as soon as it is there; a failed one as a line."""
    if at_once == 1:
        for job, identity in jobs:
            yield identity, run_cell(bench, job, progress)
        return
    with _workers(at_once) as executor:
        futures: dict[Future[Cell | str], dict[str, Any]] = {
            executor.submit(run_cell, bench, job): identity for job, identity in jobs
        }
        for done in progress.track(as_completed(futures), "Evaluating", total=len(futures)):
            yield futures[done], done.result()


@contextmanager
def _workers(at_once: int) -> Iterator[ProcessPoolExecutor]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = max(1, (cores or 1) // at_once)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        at_once, mp_context=spawn, initializer=_limit_threads, initargs=(threads,)
    ) as executor:
        try:
            yield executor
        except BaseException:  # Ctrl-C too: what has not begun never will
            executor.shutdown(cancel_futures=True)
            raise


def _limit_threads(threads: int) -> None:
    """Make every session of this process take that many threads, and torch no more than those.

    onnxruntime counts the machine's cores whatever OMP_NUM_THREADS or the process' affinity say, so
    sessions in several processes would fight over them; only the session's options can tell it.
    """
    import onnxruntime

    set_up_logging(LogLevel.WARNING, error_console())
    os.environ["OMP_NUM_THREADS"] = str(threads)
    make_options = onnxruntime.SessionOptions

    def limited() -> Any:
        options = make_options()
        options.intra_op_num_threads = threads
        return options

    onnxruntime.SessionOptions = limited


def run_cell(bench: Bench, job: Job, progress: Progress | None = None) -> Cell | str:
    """Evaluate one cell; a line that says why, where the toolchain refuses."""
    try:
        return _cell(bench, job, run_job(bench, job, progress or SilentProgress()))
    except ToolchainError as error:
        recipe = job.recipe.name if job.recipe else job.precision.value
        return f"{recipe}, seed {job.seed}: {error.message}; {error.remedy}"


def run_job(bench: Bench, job: Job, progress: Progress) -> Run:
    """Make the model of a job, as a build would, and evaluate it."""
    recipe = job.recipe.name if job.recipe else None
    path = bench.fp32
    if job.precision is not Precision.FP32:
        path = bench.folder / f"model.{recipe or job.precision.value}.{job.seed}.onnx"
        model = read_onnx(bench.fp32)
        if job.recipe is not None and job.seed is not None:
            table = read_table(bench.table(job.seed), bench.model_fingerprint)
            insert_qdq(model, job.recipe, table, FloatType.FP16)
        cast_floats(model, FloatType.FP16)
        write_onnx(model, path)
    session = OrtSession(path, job.precision, bench.profiles)
    return evaluate(session, job.precision, recipe, bench.data, progress)


def _cell(bench: Bench, job: Job, run: Run) -> Cell:
    task, examples = bench.data.task, bench.data.examples
    comparison = None
    if bench.reference is not None and job.precision is not Precision.FP32:
        comparison = asdict(compare(task, examples, bench.reference, run.predictions))
    return {
        "precision": run.precision.value,
        "recipe": run.recipe,
        "seed": job.seed,
        "backend": run.info.backend.value,
        "arithmetic": run.info.arithmetic,
        "simulated": run.info.simulated,
        "device": run.info.device,
        "n": run.n,
        "seconds": round(run.seconds, 3),
        "metrics": run.metrics,
        "compare": comparison,
    }


if __name__ == "__main__":
    main()
