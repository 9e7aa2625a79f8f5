"""Where the time and the memory of a build go: from checkpoint to ONNX in every precision.

The stages of `deploy build --engine none` before evaluation, by the functions that it calls itself,
on BERT-base with random weights (which change neither time nor memory) and calibration rows of
random tokens. Each repetition is a process of its own, and must write the same bytes as the first.

Of each stage: seconds, CPU seconds of all threads, and the peak of resident memory while it ran.
What is mapped counts: pages of the checkpoint and of model.fp32.onnx that the system can drop at
any time. The CPU seconds tell what a busy machine adds to the others; its load stands in the JSON.

    python benchmarks/pipeline.py --repeat 3 --json out.json
    python benchmarks/pipeline.py --layers 2 --samples 16        # a quick look
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fresh_process import in_fresh_process
from process_memory import forget_peak, peak_mb, resident_mb
from random_bert import calibration_rows, random_tokens, save_random_bert
from rich.table import Table

from calib_data.tasks import get_task
from deploy.cli.output import (
    TerminalProgress,
    error_console,
    only_results_on_stdout,
    result_console,
)
from deploy.environment import describe_environment

_TASK = get_task("sst2")
_PRECISIONS = ("fp8", "int8", "fp16")


@dataclass(frozen=True)
class Stage:
    """One stage of one run.

    Attributes:
        name: What it does.
        seconds: On the clock.
        cpu_seconds: Of all threads.
        start_mb: Resident memory when it began, in 10^6 bytes.
        peak_mb: The most that was resident while it ran.
    """

    name: str
    seconds: float
    cpu_seconds: float
    start_mb: float
    peak_mb: float


@dataclass
class Run:
    """One process that made everything.

    Attributes:
        stages: In order.
        hashes: sha256 of each file it wrote, by name.
        load: Mean number of processes that ran in the minute before it began.
    """

    stages: list[Stage] = field(default_factory=list)
    hashes: dict[str, str] = field(default_factory=dict)
    load: float = field(default_factory=lambda: os.getloadavg()[0])

    @property
    def seconds(self) -> float:
        """Of all stages."""
        return sum(stage.seconds for stage in self.stages)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure what the context does."""
        forget_peak()
        start, started, cpu = resident_mb(), time.perf_counter(), time.process_time()
        yield
        self.stages.append(
            Stage(
                name,
                time.perf_counter() - started,
                time.process_time() - cpu,
                start,
                peak_mb(),
            )
        )


def main() -> None:
    """Measure and print."""
    options = parse_options(sys.argv[1:])
    progress = TerminalProgress(error_console())
    runs = []
    with only_results_on_stdout(), tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "checkpoint"
        with progress.status(f"Making {options.layers} layers"):
            in_fresh_process(save_random_bert, checkpoint, options.layers)
        for _ in progress.track(range(options.repeat), "Running", options.repeat):
            out = Path(folder) / "out"
            runs.append(in_fresh_process(run, checkpoint, out, options.samples, options.tokens))
    found = report(options, runs)
    console = result_console()
    console.print(table(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if not found["same_bytes"]:
        sys.exit("error: two runs wrote different files")


def parse_options(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--repeat", type=int, default=3, help="processes; the table has medians")
    parser.add_argument("--json", type=Path)
    return parser.parse_args(arguments)


def run(source: Path, out: Path, samples: int, tokens: int) -> Run:
    """Make every file in this process, which should be fresh.

    Args:
        source: The checkpoint.
        out: Where files go; made where needed.
        samples: Rows to calibrate on.
        tokens: Tokens in each.
    """
    warnings.simplefilter("ignore")
    out.mkdir(exist_ok=True)
    fp32, data = out / "model.fp32.onnx", calibration_rows(random_tokens(samples, tokens))
    found = Run()
    with found.stage("import"):
        import modelopt.torch.quantization  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401

        from deploy.artifacts import sha256, write_text
        from deploy.stages.quantize import write_precision
        from export.calibrate import calibrate
        from export.calibration_table import table_to_json
        from export.checkpoint import load_checkpoint
        from export.onnx_export import export_onnx
        from export.onnx_file import check_onnx, write_onnx
        from export.precision import FloatType
        from export.recipe import PRESETS
        from export.verify import verify_export
    with found.stage("load"):
        checkpoint = load_checkpoint(str(source), _TASK)
    with found.stage("export"):
        graph = export_onnx(checkpoint, _TASK.head)
    with found.stage("write fp32"):
        write_onnx(graph, fp32)
    del graph
    with found.stage("check fp32"):
        check_onnx(fp32)
    with found.stage("verify fp32"):
        verify_export(checkpoint, fp32, _TASK.head)
    with found.stage("calibrate"):
        table = calibrate(checkpoint, _TASK, data)
        write_text(out / "calibration.json", table_to_json(table))
    for precision in _PRECISIONS:
        path = out / f"model.{precision}.onnx"
        with found.stage(f"write {precision}"):
            write_precision(fp32, path, PRESETS.get(precision), table, FloatType.FP16)
        with found.stage(f"check {precision}"):
            check_onnx(path)
    with found.stage("hash"):
        found.hashes = {path.name: sha256(path) for path in sorted(out.iterdir())}
    return found


def report(options: argparse.Namespace, runs: list[Run]) -> dict[str, Any]:
    """Everything that was measured, and on what, for JSON."""
    stages = [
        {
            "name": first.name,
            "seconds": statistics.median(run.stages[index].seconds for run in runs),
            "cpu_seconds": statistics.median(run.stages[index].cpu_seconds for run in runs),
            "start_mb": max(run.stages[index].start_mb for run in runs),
            "peak_mb": max(run.stages[index].peak_mb for run in runs),
        }
        for index, first in enumerate(runs[0].stages)
    ]
    return {
        "model": {"layers": options.layers, "hidden": 768, "weights": "random"},
        "samples": options.samples,
        "tokens": options.tokens,
        "stages": stages,
        "seconds": statistics.median(run.seconds for run in runs),
        "cpu_seconds": statistics.median(
            sum(stage.cpu_seconds for stage in run.stages) for run in runs
        ),
        "peak_mb": max(stage["peak_mb"] for stage in stages),
        "same_bytes": all(run.hashes == runs[0].hashes for run in runs),
        "runs": [{**asdict(run), "seconds": run.seconds} for run in runs],
        "environment": {
            **describe_environment(),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        },
    }


def table(found: dict[str, Any]) -> Table:
    """The stages of a report, and the whole."""
    made = Table(
        title=f"BERT-base with {found['model']['layers']} layers to {', '.join(_PRECISIONS)}, "
        f"{found['samples']} x {found['tokens']} calibration tokens, "
        f"{found['environment']['cores']} CPU cores, median of {len(found['runs'])}"
    )
    made.add_column("stage")
    for column in ("seconds", "CPU seconds", "at start, MB", "peak memory, MB"):
        made.add_column(column, justify="right")
    for stage in found["stages"]:
        made.add_row(
            stage["name"],
            f"{stage['seconds']:.1f}",
            f"{stage['cpu_seconds']:.1f}",
            f"{stage['start_mb']:,.0f}",
            f"{stage['peak_mb']:,.0f}",
        )
    made.add_section()
    made.add_row(
        "whole", f"{found['seconds']:.1f}", f"{found['cpu_seconds']:.1f}", "",
        f"{found['peak_mb']:,.0f}",
    )  # fmt: skip
    return made


if __name__ == "__main__":
    main()
