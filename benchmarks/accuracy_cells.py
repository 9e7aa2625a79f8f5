"""The cells of accuracy.py: one checkpoint's models, made and evaluated as a build would."""

from __future__ import annotations

import argparse
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from calib_data.blocks import as_blocks
from calib_data.errors import ToolchainError
from calib_data.features import Features, tokenize
from calib_data.progress import Progress, SilentProgress
from calib_data.sampler import CalibrationSet, fingerprint, sample_examples
from deploy.artifacts import write_text
from deploy.cli.output import LogLevel, error_console, set_up_logging
from deploy.config import config_from_dict
from deploy.engine.ort import OrtSession
from deploy.engine.profiles import Profile, bucket_profiles
from deploy.engine.session import Precision
from deploy.evaluation.compare import compare
from deploy.evaluation.harness import EvaluationSet, Run, evaluate
from deploy.evaluation.predictions import Predictions
from deploy.inputs import BuildInputs, load_inputs
from deploy.stages.quantize import write_precision
from export.calibrate import calibrate
from export.calibration_table import read_table, table_to_json
from export.checkpoint import load_weights
from export.onnx_export import export_onnx
from export.onnx_file import read_onnx, write_onnx
from export.precision import FloatType, cast_floats
from export.recipe import PRESETS, QuantRecipe

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

    @property
    def name(self) -> str:
        """The recipe's, or the precision's where there is none."""
        return self.recipe.name if self.recipe else self.precision.value


@dataclass(frozen=True)
class Bench:
    """What all cells of one checkpoint share.

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


def recipes_named(text: str) -> tuple[QuantRecipe, ...]:
    """Presets by their names, comma-separated, for argparse."""
    names = text.split(",")
    if unknown := sorted(set(names) - PRESETS.keys()):
        raise argparse.ArgumentTypeError(
            f"no recipe '{unknown[0]}'; there are {', '.join(PRESETS)}"
        )
    return tuple(PRESETS[name] for name in names)


def inputs_of(
    checkpoint: str, data_dir: Path | None, limit: int | None, progress: Progress
) -> BuildInputs:
    """What a build of PATH:TASK would read."""
    source, _, task = checkpoint.rpartition(":")
    config = {"model": source, "task": task, "data_dir": data_dir, "limit": limit}
    # `out` has to be named, but nothing is built there.
    plain = {**config, "out": ".", "engine": "none", "precision": "fp8,int8,fp16"}
    return load_inputs(config_from_dict(plain), progress)


def prepare(
    folder: Path,
    inputs: BuildInputs,
    missing: Sequence[Job],
    calib_samples: int,
    progress: Progress,
) -> Bench:
    """Export once, and calibrate once for every seed that is needed."""
    profiles = bucket_profiles(inputs.buckets, _MAX_BATCH)
    bench = Bench(folder, inputs.checkpoint.fingerprint, inputs.dev, profiles)
    with progress.status("Exporting to ONNX"):
        write_onnx(export_onnx(load_weights(inputs.checkpoint), inputs.task.head), bench.fp32)
    for seed in sorted({job.seed for job in missing if job.seed is not None}):
        # Calibration leaves its quantizers in the model, so each seed gets a model of its own.
        checkpoint = load_weights(inputs.checkpoint)
        examples = sample_examples(inputs.train, calib_samples, seed)
        features = tokenize(inputs.task, checkpoint.tokenizer, examples, inputs.max_length)
        data = CalibrationSet(features, seed, fingerprint(features))
        table = calibrate(checkpoint, inputs.task, data, progress)
        write_text(bench.table(seed), table_to_json(table))
    return bench


def run_all(
    bench: Bench, jobs: Sequence[Job], at_once: int, progress: Progress
) -> Iterator[tuple[Job, Cell | str]]:
    """Evaluate, each cell as soon as it is there; a failed one as a line."""
    if at_once == 1:
        for job in jobs:
            yield job, run_cell(bench, job, progress)
        return
    blocks = [block.result() for block in bench.data.blocks]
    packed = replace(bench, data=replace(bench.data, blocks=()))
    with _workers(at_once) as executor:
        futures: dict[Future[Cell | str], Job] = {
            executor.submit(_run_packed, packed, blocks, job): job for job in jobs
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


def _run_packed(packed: Bench, blocks: Sequence[Features], job: Job) -> Cell | str:
    """`run_cell` in another process, where futures cannot go; the rows of each block can."""
    there = tuple(block for rows in blocks for block in as_blocks(rows))
    return run_cell(replace(packed, data=replace(packed.data, blocks=there)), job)


def run_cell(bench: Bench, job: Job, progress: Progress | None = None) -> Cell | str:
    """Evaluate one cell; a line that says why, where the toolchain refuses."""
    try:
        return make_cell(bench, job, run_job(bench, job, progress or SilentProgress()))
    except ToolchainError as error:
        return f"{job.name}, seed {job.seed}: {error.message}; {error.remedy}"


def run_job(bench: Bench, job: Job, progress: Progress) -> Run:
    """Make the model of a job, and evaluate it."""
    session = OrtSession(make_model(bench, job), job.precision, bench.profiles)
    recipe = job.recipe.name if job.recipe else None
    return evaluate(session, job.precision, recipe, bench.data, progress)


def make_model(bench: Bench, job: Job) -> Path:
    """Make the model of a job, as a build would."""
    if job.precision is Precision.FP32:
        return bench.fp32
    path = bench.folder / f"model.{job.name}.{job.seed}.onnx"
    if job.recipe is not None and job.seed is not None:
        table = read_table(bench.table(job.seed), bench.model_fingerprint)
        write_precision(bench.fp32, path, job.recipe, table, FloatType.FP16)
    else:
        model = read_onnx(bench.fp32)
        cast_floats(model, FloatType.FP16)
        write_onnx(model, path)
    return path


def make_cell(bench: Bench, job: Job, run: Run) -> Cell:
    """What a run found, as plain data."""
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
