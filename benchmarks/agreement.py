"""How far two faithful executions of one quantized graph lie apart: what agreement can be had.

A value near a rounding boundary gets another 8-bit code after the slightest change before it, the
next layer sees a whole step of difference, and so on through the layers. So the same file is run
again by onnxruntime with one weight vector, the first LayerNorm's, moved up or down at random: to
the next FP32 number, and by a quarter of a unit in FP16's last place, as far as rounding to FP16
moves a number on average; and by torch, which sums in another order. All in FP32 arithmetic on the
CPU. FP16, where nothing is rounded to 8 bits, stands beside for comparison.

    python benchmarks/agreement.py --checkpoint CHECKPOINTS/minilm-squad:squad --data-dir DATA \
        --limit 1000 --json agreement.json
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from accuracy_cells import Bench, Cell, Job, inputs_of, make_model, prepare, recipes_named
from accuracy_outcomes import Outcome, distance, execute
from rich.table import Table

from calib_data.progress import Progress
from deploy.artifacts import write_json
from deploy.cli.output import (
    LogLevel,
    TerminalProgress,
    error_console,
    only_results_on_stdout,
    result_console,
    set_up_logging,
)
from deploy.engine.ort import OrtSession
from deploy.engine.session import Precision, Session
from deploy.engine.torch_session import TorchSession
from deploy.environment import describe_environment
from export.onnx_file import read_onnx, write_onnx
from export.precision import FloatType, cast_floats
from export.recipe import PRESETS

# As a share of a number between 1 and 2, of which FP16 keeps 10 bits behind the point (IEEE 754).
DISTURBANCES = {"one FP32 ulp": 0.0, "a quarter FP16 ulp": 2.0**-12}


def main() -> None:
    """Run every graph in every way, and print how far each lies from the first."""
    options = parse_options(sys.argv[1:])
    console = error_console()
    set_up_logging(LogLevel.WARNING, console)
    with only_results_on_stdout():
        cells = measure(options, TerminalProgress(console))
    write_json(options.json, {"environment": describe_environment(), "cells": cells})
    result_console().print(_table(cells))


def parse_options(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", required=True, metavar="PATH:TASK")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument(
        "--recipes",
        type=recipes_named,
        default=(PRESETS["fp8"], PRESETS["int8"]),
        help=f"any of {','.join(PRESETS)}; default: fp8,int8",
    )
    parser.add_argument("--calib-samples", type=int, default=256)
    parser.add_argument("--limit", type=int, help="evaluate that many examples")
    parser.add_argument("--json", type=Path, required=True)
    return parser.parse_args(arguments)


def measure(options: argparse.Namespace, progress: Progress) -> list[Cell]:
    """One cell for each graph and each other way to run it."""
    inputs = inputs_of(options.checkpoint, options.data_dir, options.limit, progress)
    jobs = [Job(Precision.FP16)]
    jobs += [Job(Precision(each.format.value), each, 0) for each in options.recipes]
    with tempfile.TemporaryDirectory() as folder:
        bench = prepare(Path(folder), inputs, jobs, options.calib_samples, progress)
        exact = execute(_onnxruntime(bench, bench.fp32, Precision.FP32), jobs[0], bench, progress)
        return [cell for job in jobs for cell in _cells(bench, job, exact, progress)]


def disturb(source: Path, target: Path, share: float) -> None:
    """Write a model whose first LayerNorm weights are moved by that share, at least to the next."""
    model = read_onnx(source)
    cast_floats(model, FloatType.FP32)  # FP16 has no number that near
    weight = next(node.inputs[1] for node in model.graph if node.op_type == "LayerNormalization")
    if weight is None or weight.const_value is None:
        raise ValueError(f"{source}: the first LayerNorm has no constant weight")
    import onnx_ir

    values = weight.const_value.numpy()
    signs = np.random.default_rng(0).choice(np.array([-1, 1], np.float32), values.shape)
    moved = (values * (1 + np.float32(share) * signs)).astype(np.float32)
    moved = np.where(moved == values, np.nextafter(values, np.inf * signs), moved)
    weight.const_value = onnx_ir.tensor(moved, name=weight.name)
    write_onnx(model, target)


def _cells(bench: Bench, job: Job, exact: Outcome, progress: Progress) -> Iterator[Cell]:
    path = make_model(bench, job)
    reference = execute(_onnxruntime(bench, path, job.precision), job, bench, progress)
    for way, session in _others(bench, path, job.precision):
        found = execute(session, job, bench, progress)
        yield {
            "graph": job.name,
            "way": way,
            "n": found.run.n,
            "metrics": found.run.metrics,
            **distance(bench.data, found, reference, exact),
        }


def _others(bench: Bench, path: Path, precision: Precision) -> Iterator[tuple[str, Session]]:
    moved = bench.folder / "disturbed.onnx"
    for name, share in DISTURBANCES.items():
        disturb(path, moved, share)
        yield f"onnxruntime, {name}", _onnxruntime(bench, moved, precision)
    pad = bench.data.pad_token_id
    yield "torch", TorchSession(path, precision, bench.profiles, pad, device="cpu")


def _onnxruntime(bench: Bench, path: Path, precision: Precision) -> OrtSession:
    return OrtSession(path, precision, bench.profiles, bench.data.pad_token_id)


def _table(cells: Sequence[Cell]) -> Table:
    table = Table(title=f"Against onnxruntime on the same graph, {cells[0]['n']} examples")
    for name in ("graph", "run by", "agreement %", "logits", "effect of quantizing"):
        table.add_column(name, justify="left" if name in ("graph", "run by") else "right")
    for cell in cells:
        table.add_row(
            cell["graph"],
            cell["way"],
            f"{100 * cell['agreement']:.2f}",
            f"{cell['logits_error']:.2g}",
            f"{cell['quantization_effect']:.2g}",
        )
    return table


if __name__ == "__main__":
    main()
