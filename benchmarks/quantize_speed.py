"""Calibration and Q/DQ insertion: this project beside `modelopt.onnx.quantization.quantize`.

Both sides get the same FP32 ONNX file of BERT-base (random weights, which change neither time nor
memory), the same rows of random tokens, and are asked for FP8 with max calibration in an FP16
graph. modelopt.onnx runs with several batch sizes: 1 is what it takes when it is told none, and the
number of samples passes all rows at once. Each run is a process of its own. What is timed:

- this project: `calibrate()` on the loaded checkpoint (placing ModelOpt's observers included), then
  reading the FP32 file, `insert_qdq()`, the cast to FP16, and writing the file;
- modelopt.onnx: the whole call of `quantize()`, from the FP32 file to the written one.

Imports and the loading of checkpoint and samples are not timed; whole-process seconds stand beside.
Memory is the peak of the whole process, libraries and model included.

modelopt.onnx needs other versions of onnx and onnxruntime, hence its own environment:

    python benchmarks/quantize_speed.py --make-env modelopt_env --json out.json
    python benchmarks/quantize_speed.py --python modelopt_env/bin/python
    python benchmarks/quantize_speed.py --ours-only --samples 64,1024   # does memory grow?

modelopt.onnx takes memory with its batch: 16.5 GB with all 128 rows at once. Leave OMP_NUM_THREADS
unset: torch obeys it and onnxruntime does not, so it would slow down this project's side alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from fresh_process import in_fresh_process
from modelopt_environment import make_environment, without_python_path
from process_memory import peak_mb, resident_mb
from random_bert import calibration_rows, random_tokens, save_random_bert
from rich.table import Table

from calib_data.progress import Progress
from calib_data.tasks import get_task
from deploy.cli.output import (
    TerminalProgress,
    error_console,
    only_results_on_stdout,
    result_console,
)
from deploy.environment import describe_environment, installed_versions
from export.onnx_file import read_onnx

_TASK = get_task("sst2")
_OURS, _THEIRS = "this project", "modelopt.onnx"


@dataclass(frozen=True)
class Run:
    """One side on one number of samples.

    Attributes:
        side: Which of the two.
        samples: Rows that were calibrated on.
        batch: Rows in each pass.
        seconds: What this file's first lines say is timed.
        process_seconds: The whole process: also its start, imports and loading.
        start_mb: Resident memory when timing began.
        peak_mb: Peak resident memory of the process, in 10^6 bytes.
        quantize_linears: QuantizeLinear nodes in the written model.
        output_mb: Size of the written model.
        packages: Versions it ran with.
        stages: Parts of `seconds`, where they can be told.
    """

    side: str
    samples: int
    batch: int
    seconds: float
    process_seconds: float
    start_mb: float
    peak_mb: float
    quantize_linears: int
    output_mb: float
    packages: dict[str, str]
    stages: dict[str, float] = field(default_factory=dict)


def main() -> None:
    """Measure and print."""
    options = parse_options(sys.argv[1:])
    progress = TerminalProgress(error_console())
    with only_results_on_stdout():
        python = options.python
        if options.make_env:
            python = make_environment(options.make_env, progress)
        with tempfile.TemporaryDirectory() as folder:
            runs = measure(Path(folder), options, python, progress)
    found = report(options, runs)
    console = result_console()
    for line in _tables(found, runs):
        console.print(line)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def report(options: argparse.Namespace, runs: list[Run]) -> dict[str, Any]:
    """Everything that was measured, and on what, for JSON."""
    return {
        "model": {"layers": options.layers, "hidden": 768, "weights": "random"},
        "tokens": options.tokens,
        "format": "fp8",
        "calibration": "max",
        "runs": [asdict(run) for run in runs],
        "ratios": ratios(runs),
        "growth": growth(runs),
        "environment": {
            **describe_environment(),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        },
    }


def parse_options(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    other = parser.add_mutually_exclusive_group(required=True)
    other.add_argument(
        "--make-env", type=Path, metavar="DIR", help="make modelopt.onnx's environment there"
    )
    other.add_argument("--python", type=Path, help="the Python of an environment made before")
    other.add_argument("--ours-only", action="store_true", help="leave modelopt.onnx out")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--samples", type=_counts, default=(128,), help="one count, or 64,1024")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--batch", type=int, default=16, help="rows in each of our passes")
    parser.add_argument(
        "--modelopt-batch", type=_counts, default=(1, 16, 128), help="of modelopt.onnx, each a run"
    )
    parser.add_argument("--json", type=Path)
    return parser.parse_args(arguments)


def _counts(text: str) -> tuple[int, ...]:
    return tuple(sorted({int(count) for count in text.split(",")}))


def measure(
    folder: Path, options: argparse.Namespace, python: Path | None, progress: Progress
) -> list[Run]:
    """Run every count on every side, one process at a time.

    Args:
        folder: Empty; takes a few times the size of the model.
        options: As the command line has them.
        python: Of modelopt.onnx's environment; None leaves that side out.
        progress: Told what runs.
    """
    with progress.status(f"Exporting {options.layers} layers"):
        in_fresh_process(prepare, folder, options.layers, options.samples, options.tokens)
    runs = []
    for count in options.samples:
        with progress.status(f"{_OURS}, {count} samples"):
            runs.append(run_ours(folder, count, options.batch))
        for batch in options.modelopt_batch if python else ():
            with progress.status(f"{_THEIRS}, {count} samples, {batch} at a time"):
                runs.append(run_theirs(folder, count, batch, python))
    return runs


def prepare(folder: Path, layers: int, counts: tuple[int, ...], tokens: int) -> None:
    """Write the checkpoint, its FP32 graph, and the samples by input name."""
    from export.checkpoint import load_checkpoint
    from export.onnx_export import export_onnx, input_names
    from export.onnx_file import write_onnx

    save_random_bert(folder / "checkpoint", layers)
    checkpoint = load_checkpoint(str(folder / "checkpoint"), _TASK)
    for count in counts:
        ids = random_tokens(count, tokens)
        values = {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "token_type_ids": np.zeros_like(ids),
        }
        # As `Any`: numpy's types take every keyword of `savez` for its option allow_pickle.
        inputs: dict[str, Any] = {name: values[name] for name in input_names(checkpoint.model)}
        np.savez(_samples(folder, count), **inputs)
    write_onnx(export_onnx(checkpoint, _TASK.head), folder / "model.fp32.onnx")


def run_ours(folder: Path, count: int, batch: int) -> Run:
    """This project's side."""
    output = folder / "ours.onnx"
    started = time.monotonic()
    measured = in_fresh_process(quantize_here, folder, count, batch, output)
    return _run(_OURS, count, batch, measured, time.monotonic() - started, output)


def quantize_here(folder: Path, count: int, batch: int, output: Path) -> dict[str, Any]:
    """Calibrate and quantize in this process, which should be fresh: its peak is the result."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # `calibrate` imports it where it needs it; imports are timed on neither side.
        import modelopt.torch.quantization  # noqa: F401

    from export.calibrate import calibrate
    from export.checkpoint import load_checkpoint
    from export.onnx_file import write_onnx
    from export.precision import FloatType, cast_floats
    from export.qdq import insert_qdq
    from export.recipe import PRESETS

    checkpoint = load_checkpoint(str(folder / "checkpoint"), _TASK)
    with np.load(_samples(folder, count)) as samples:
        data = calibration_rows(samples["input_ids"])
    start = resident_mb()
    started = time.monotonic()
    table = calibrate(checkpoint, _TASK, data, batch_size=batch)
    calibrated = time.monotonic()
    del checkpoint  # inserting Q/DQ needs the graph and the table alone
    model = read_onnx(folder / "model.fp32.onnx")
    insert_qdq(model, PRESETS["fp8"], table, FloatType.FP16)
    cast_floats(model, FloatType.FP16)
    write_onnx(model, output)
    ended = time.monotonic()
    versions = {name: found for name, found in installed_versions().items() if found}
    return {
        "seconds": ended - started,
        "stages": {"calibrate": calibrated - started, "quantize": ended - calibrated},
        "start_mb": start,
        "peak_mb": peak_mb(),
        "packages": {"python": sys.version.split()[0], **versions},
    }


def run_theirs(folder: Path, count: int, batch: int, python: Path) -> Run:
    """modelopt.onnx's side.

    Raises:
        RuntimeError: It failed; the message ends with what it said.
    """
    output, result = folder / "theirs.onnx", folder / "theirs.json"
    script = Path(__file__).with_name("modelopt_onnx.py")
    onnx, samples = folder / "model.fp32.onnx", _samples(folder, count)
    started = time.monotonic()
    done = subprocess.run(
        [python, script, onnx, samples, str(batch), output, result],
        capture_output=True,
        text=True,
        env=without_python_path(),
    )
    seconds = time.monotonic() - started
    if done.returncode != 0:
        reason = "killed: too little memory?" if done.returncode == -9 else done.stderr[-2000:]
        raise RuntimeError(f"{_THEIRS} ended with {done.returncode}\n{reason}")
    return _run(_THEIRS, count, batch, json.loads(result.read_text("utf-8")), seconds, output)


def _run(
    side: str, count: int, batch: int, measured: dict[str, Any], seconds: float, output: Path
) -> Run:
    nodes = [node.op_type for node in read_onnx(output).graph]
    return Run(
        side=side,
        samples=count,
        batch=batch,
        process_seconds=seconds,
        quantize_linears=nodes.count("QuantizeLinear"),
        output_mb=output.stat().st_size / 1e6,
        **measured,
    )


def ratios(runs: list[Run]) -> list[dict[str, float]]:
    """How many times as much modelopt.onnx takes, for each of its runs."""
    found = []
    for ours in runs:
        for theirs in runs:
            if (ours.side, theirs.side) == (_OURS, _THEIRS) and ours.samples == theirs.samples:
                found.append(
                    {
                        "samples": ours.samples,
                        "modelopt_batch": theirs.batch,
                        "seconds": theirs.seconds / ours.seconds,
                        "process_seconds": theirs.process_seconds / ours.process_seconds,
                        "peak_memory": theirs.peak_mb / ours.peak_mb,
                    }
                )
    return found


def growth(runs: list[Run]) -> dict[str, float]:
    """By side, peak memory on the most samples over that on the fewest."""
    found = {}
    for side in dict.fromkeys(run.side for run in runs):
        peaks = {run.samples: run.peak_mb for run in runs if run.side == side}
        if len(peaks) > 1:
            found[side] = peaks[max(peaks)] / peaks[min(peaks)]
    return found


def _tables(found: dict[str, Any], runs: list[Run]) -> Iterator[Table | str]:
    table = Table(
        title=f"FP8, BERT-base with {found['model']['layers']} layers, rows of {found['tokens']} "
        f"tokens, {found['environment']['cores']} CPU cores"
    )
    for column in (
        "samples", "side", "batch", "seconds", "whole process, s", "peak memory, MB",
        "at start, MB", "QuantizeLinear", "output, MB",
    ):  # fmt: skip
        table.add_column(column, justify="left" if column == "side" else "right")
    for run in runs:
        table.add_row(
            str(run.samples),
            run.side,
            str(run.batch),
            f"{run.seconds:.1f}",
            f"{run.process_seconds:.1f}",
            f"{run.peak_mb:,.0f}",
            f"{run.start_mb:,.0f}",
            str(run.quantize_linears),
            f"{run.output_mb:.1f}",
        )
    for ratio in found["ratios"]:
        table.add_row(
            str(ratio["samples"]),
            "ratio",
            str(ratio["modelopt_batch"]),
            f"{ratio['seconds']:.1f}x",
            f"{ratio['process_seconds']:.1f}x",
            f"{ratio['peak_memory']:.1f}x",
        )
    yield table
    for side, times in found["growth"].items():
        fewest, most = min(run.samples for run in runs), max(run.samples for run in runs)
        yield f"{side}: peak memory of {most} samples is {times:.3f} of that of {fewest}"


def _samples(folder: Path, count: int) -> Path:
    return folder / f"samples-{count}.npz"


if __name__ == "__main__":
    main()
