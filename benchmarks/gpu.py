"""What FP8 gains on a GPU: this project's graphs on torch beside what a user would run instead.

BERT with random weights, which change no time. In one run, in turn, on the same tokens without
padding: the Hugging Face model under torch.compile in FP16 (mode reduce-overhead), and the FP16,
INT8 and FP8 graphs of this project on the torch backend, replayed as CUDA graphs. Times are the
device's, between CUDA events, inputs and outputs on the GPU. Beside them stands each one's share of
the GPU's peak, as measured here by a large matrix product in the same type.

    python benchmarks/gpu.py --json gpu.json --profile
    python benchmarks/gpu.py --model large --shapes 32x128,32x384

Most of a run is compiling; `--folder` keeps checkpoint and graphs, and torch its kernels, so that
the next run begins with measuring.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gpu_gemms import gemm_table, measure_gemms
from random_bert import calibration_rows, random_tokens, save_random_bert
from rich.table import Table

from calib_data.progress import Progress
from calib_data.tasks import get_task
from deploy.artifacts import BuildFolder
from deploy.bench.baselines import Baseline, BaselineModel, baseline_probes
from deploy.bench.environment import machine_state
from deploy.bench.latency import Clock
from deploy.bench.probes import session_probes
from deploy.bench.sweep import Effort, Measurement, Probe, sweep
from deploy.bench.tokens import token_sets
from deploy.cli.output import (
    TerminalProgress,
    error_console,
    only_results_on_stdout,
    result_console,
)
from deploy.engine.opening import open_session
from deploy.engine.profiles import Shape, bucket_profiles
from deploy.engine.session import Backend, Precision
from deploy.environment import describe_environment
from deploy.option_values import parse_precisions

_TASK = "sst2"
_SEED = 0
_CALIBRATION_ROWS = 32
_PRECISIONS = (Precision.FP16, Precision.INT8, Precision.FP8)


@dataclass(frozen=True)
class Size:
    """Dimensions of a BERT."""

    layers: int
    hidden: int

    def operations(self, shape: Shape) -> float:
        """Multiplications and additions in the encoder's matrix products."""
        tokens = shape.batch * shape.sequence
        linears = 12 * self.hidden**2
        attention = 2 * shape.sequence * self.hidden
        return 2.0 * tokens * self.layers * (linears + attention)


_SIZES = {"base": Size(12, 768), "large": Size(24, 1024)}
_SHAPES = {"base": "1x128,8x128,32x128,8x384,32x384", "large": "32x128,32x384"}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=sorted(_SIZES), default="base")
    parser.add_argument("--shapes", help="batch x sequence, comma-separated")
    parser.add_argument(
        "--precision", type=parse_precisions, default=_PRECISIONS, help="of fp16,int8,fp8"
    )
    parser.add_argument("--seconds", type=float, default=0.5, help="of each at every shape")
    parser.add_argument("--profile", action="store_true", help="time by kernel, FP8, each shape")
    parser.add_argument("--gemms", action="store_true", help="time the linears alone, too")
    parser.add_argument("--no-baseline", action="store_true", help="leave torch.compile out")
    parser.add_argument("--folder", type=Path, help="keep the graphs here, and use those there")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    shapes = [
        Shape(*(int(size) for size in shape.split("x")))
        for shape in (options.shapes or _SHAPES[options.model]).split(",")
    ]
    progress = TerminalProgress(error_console())
    with only_results_on_stdout(), tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        found = measure(folder, _SIZES[options.model], shapes, options, progress)
    console = result_console()
    for each in _tables(options.model, found):
        console.print(each)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def measure(
    folder: Path, size: Size, shapes: list[Shape], options: argparse.Namespace, progress: Progress
) -> dict[str, Any]:
    """Export, quantize, and time everything."""
    build = BuildFolder(folder / "build")
    if not build.onnx(_PRECISIONS[-1].value).is_file():
        with progress.status("Exporting and quantizing"):
            prepare(folder / "checkpoint", build, size)
    profiles = bucket_profiles(
        tuple(sorted({shape.sequence for shape in shapes})), max(shape.batch for shape in shapes)
    )
    batches = tuple({shape.batch for shape in shapes})
    probes: list[Probe] = []
    sessions = {}
    for precision in options.precision:
        with progress.status(f"Compiling {precision.value}"):
            session = open_session(build, precision, Backend.TORCH, profiles)
            probes += session_probes(session, precision, cuda_graph=True, batches=batches)
            sessions[precision] = session
    if not options.no_baseline:
        model = BaselineModel(build, str(folder / "checkpoint"), get_task(_TASK).head, len(shapes))
        probes += baseline_probes(Baseline.TORCH_COMPILE, model)
    start = machine_state()
    measured = sweep(
        [probe for probe in probes if probe.timer.clock is Clock.DEVICE],
        shapes,
        lambda shape: token_sets(shape, 30_000, _SEED),
        Effort(seconds=options.seconds),
        _SEED,
        progress,
    )
    peaks = {"fp16": peak_tflops("float16"), "fp8": peak_tflops("float8_e4m3fn")}
    profile = {}
    if options.profile and Precision.FP8 in sessions:
        for shape in shapes:
            inputs = token_sets(shape, 30_000, _SEED)[0]
            name = f"{shape.batch}x{shape.sequence}"
            profile[name] = kernels(sessions[Precision.FP8], inputs)
    gemms = []
    if options.gemms:
        for rows in sorted({shape.batch * shape.sequence for shape in shapes}):
            gemms += measure_gemms(size.hidden, rows)
    return {
        "model": asdict(size),
        "rows": [_row(each, measured, size, peaks) for each in measured],
        "peak_tflops": peaks,
        "profile": profile,
        "gemms": gemms,
        "simulated_parts": {p.value: list(s.info.simulated_parts) for p, s in sessions.items()},
        "environment": {**describe_environment(), "start": start, "end": machine_state()},
    }


def prepare(checkpoint: Path, build: BuildFolder, size: Size) -> None:
    """Write the checkpoint and its FP16, INT8 and FP8 graphs."""
    import torch

    from deploy.stages.quantize import write_precision
    from export.calibrate import calibrate
    from export.checkpoint import load_checkpoint
    from export.onnx_export import export_onnx
    from export.onnx_file import write_onnx
    from export.precision import FloatType
    from export.recipe import PRESETS

    task = get_task(_TASK)
    save_random_bert(checkpoint, size.layers, size.hidden)
    loaded = load_checkpoint(str(checkpoint), task)
    fp32 = build.onnx("fp32")
    fp32.parent.mkdir(parents=True, exist_ok=True)
    write_onnx(export_onnx(loaded, task.head), fp32)
    if torch.cuda.is_available():
        loaded.model.cuda()
    table = calibrate(loaded, task, calibration_rows(random_tokens(_CALIBRATION_ROWS, 128)))
    for precision in _PRECISIONS:
        recipe = PRESETS[precision.value] if precision.quantized else None
        write_precision(fp32, build.onnx(precision.value), recipe, table, FloatType.FP16)


def peak_tflops(dtype: str, size: int = 8192) -> float:
    """What a large matrix product reaches here, in 10^12 operations per second.

    Args:
        dtype: float16 or float8_e4m3fn; 16-bit results.
        size: Rows and columns of both operands.
    """
    import torch

    a, b = (torch.randn(size, size, device="cuda").to(getattr(torch, dtype)) for _ in range(2))
    one = torch.ones((), device="cuda")

    def multiply() -> Any:
        if dtype == "float16":
            return a @ b.t()
        return torch._scaled_mm(
            a, b.t(), scale_a=one, scale_b=one, out_dtype=torch.float16, use_fast_accum=True
        )

    times = []
    for _ in range(13):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        multiply()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return float(2 * size**3 / (np.median(times[3:]) * 1e-3) / 1e12)


def kernels(session: Any, inputs: dict[str, Any]) -> list[dict[str, Any]]:
    """GPU time by kernel of one call, longest first."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    calls = 5
    session.run(inputs)
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        for _ in range(calls):
            session.run(inputs)
        torch.cuda.synchronize()
    events = [each for each in found.key_averages() if each.self_device_time_total > 0]
    return [
        {
            "kernel": each.key,
            "ms": round(each.self_device_time_total / calls / 1000, 4),
            "calls": round(each.count / calls),
        }
        for each in sorted(events, key=lambda each: -each.self_device_time_total)[:10]
    ]


def _row(
    each: Measurement, measured: list[Measurement], size: Size, peaks: dict[str, float]
) -> dict[str, Any]:
    contestant, shape = each.probe.contestant, each.shape
    baseline = next(
        (
            other.latency.p50_ms
            for other in measured
            if other.shape == shape
            and other.probe.contestant.backend == Baseline.TORCH_COMPILE.value
        ),
        None,
    )
    eight_bit = contestant.precision in {"int8", "fp8"}
    peak = peaks["fp8" if eight_bit else "fp16"] * 1e12
    return {
        "batch": shape.batch,
        "sequence": shape.sequence,
        "precision": contestant.precision,
        "backend": contestant.backend,
        "p50_ms": each.latency.p50_ms,
        "p90_ms": each.latency.p90_ms,
        "iterations": each.latency.iterations,
        "distrust": each.latency.distrust,
        "speedup": None if baseline is None else baseline / each.latency.p50_ms,
        "share_of_peak": size.operations(shape) / (each.latency.p50_ms * 1e-3) / peak,
    }


def _tables(model: str, found: dict[str, Any]) -> Iterator[Table | str]:
    gpus = found["environment"]["gpus"]
    table = Table(title=f"BERT-{model}, {gpus[0] if gpus else 'no GPU'}, median of device times")
    for column in ("batch", "sequence", "precision", "backend", "ms", "speed", "of peak"):
        table.add_column(column, justify="left" if column in {"precision", "backend"} else "right")
    for row in found["rows"]:
        speed = "" if row["speedup"] is None else f"{row['speedup']:.2f}x"
        table.add_row(
            str(row["batch"]),
            str(row["sequence"]),
            row["precision"],
            row["backend"],
            f"{row['p50_ms']:.3f}" + ("*" if row["distrust"] else ""),
            speed,
            f"{row['share_of_peak']:.0%}",
        )
    yield table
    if any(row["distrust"] for row in found["rows"]):
        yield "* the spread is too large to trust"
    peaks = found["peak_tflops"]
    yield f"peak: {peaks['fp16']:.0f} TFLOP/s in FP16, {peaks['fp8']:.0f} in FP8"
    for name, rows in found["profile"].items():
        table = Table(title=f"FP8 at {name}, by kernel")
        for column in ("ms", "calls", "kernel"):
            table.add_column(column, justify="left" if column == "kernel" else "right")
        for row in rows:
            table.add_row(f"{row['ms']:.3f}", str(row["calls"]), row["kernel"][:90])
        yield table
    if found["gemms"]:
        yield gemm_table(found["gemms"])


if __name__ == "__main__":
    main()
