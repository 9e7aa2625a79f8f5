"""Compare recipes on held-back TRAINING rows, the evidence that the defaults rest on.

For each candidate: how far the outputs move from FP32 (relative error in the Frobenius norm), and
on how many rows the prediction stays the same. The development set is never read.

    python benchmarks/recipes.py --model CHECKPOINT --task sst2 --data-dir DATA --json out.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from calib_data.demo.model import ensure_demo_model
from calib_data.features import tokenize
from calib_data.progress import SilentProgress
from calib_data.sampler import CalibrationSet, fingerprint, split_sample
from calib_data.sources import load_examples
from calib_data.tasks import Split, get_task
from deploy.engine.ort import OrtSession
from deploy.engine.profiles import bucket_profiles
from deploy.engine.session import Precision
from deploy.evaluate.deviation import run_deviation, run_reference
from deploy.evaluate.harness import EvaluationSet
from deploy.pipeline import write_quantized
from export.calibrate import calibrate
from export.checkpoint import load_checkpoint
from export.onnx_export import export_onnx
from export.onnx_file import write_onnx
from export.precision import FloatType
from export.recipe import (
    PRESETS,
    CalibrationMethod,
    Calibrator,
    KindRecipe,
    QuantFormat,
    QuantRecipe,
)
from export.sites import SiteKind

_CALIBRATORS = (
    Calibrator(),
    Calibrator(CalibrationMethod.PERCENTILE, 99.9),
    Calibrator(CalibrationMethod.PERCENTILE, 99.99),
    Calibrator(CalibrationMethod.PERCENTILE, 99.999),
    Calibrator(CalibrationMethod.MSE),
    Calibrator(CalibrationMethod.ENTROPY),
)


def candidates(fmt: QuantFormat) -> Iterator[QuantRecipe]:
    """Every calibrator on all sites, as the graph is and with attention centered."""
    base = PRESETS[fmt.value]
    for calibrator in _CALIBRATORS:
        if fmt is QuantFormat.FP8 and calibrator.method is CalibrationMethod.ENTROPY:
            continue
        kinds = {
            kind: how if kind is SiteKind.LINEAR_WEIGHT else KindRecipe(calibrator)
            for kind, how in base.kinds.items()
        }
        for centered in (False, True):
            name = f"{calibrator}, centered" if centered else str(calibrator)
            yield replace(base, name=name, kinds=kinds, center_attention=centered)


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--task", required=True)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--calib-samples", type=int, default=256)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = measure(options)
    table = Table(title=f"{options.model}, {options.task}, {options.rows} held-back training rows")
    for column in ("format", "recipe", "relative error", "agreement %"):
        table.add_column(column)
    for row in rows:
        table.add_row(
            row["format"], row["recipe"], f"{row['error']:.4f}", f"{100 * row['agreement']:.2f}"
        )
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Relative error and agreement of every candidate."""
    task = get_task(options.task)
    source = str(ensure_demo_model()) if options.model == "demo" else options.model
    checkpoint = load_checkpoint(source, task)
    train = load_examples(task, Split.TRAIN, options.data_dir)
    calibration, held_back = split_sample(
        train, (options.calib_samples, options.rows), options.seed
    )
    length = min(task.max_length, checkpoint.max_length)
    data = EvaluationSet(
        task,
        held_back,
        tokenize(task, checkpoint.tokenizer, held_back, length),
        checkpoint.tokenizer.pad_token_id,
    )
    features = tokenize(task, checkpoint.tokenizer, calibration, length)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        fp32 = Path(folder) / "model.fp32.onnx"
        write_onnx(export_onnx(checkpoint, task.head), fp32)
        table = calibrate(
            checkpoint,
            task,
            CalibrationSet(features, options.seed, fingerprint(features)),
        )
        reference = run_reference(
            _session(fp32, Precision.FP32, data), data, SilentProgress(), fp32.name
        )
        for fmt in QuantFormat:
            for recipe in candidates(fmt):
                onnx = Path(folder) / f"model.{fmt.value}.onnx"
                write_quantized(fp32, onnx, recipe, table, FloatType.FP16)
                session = _session(onnx, Precision(fmt.value), data)
                deviation = run_deviation(session, reference, SilentProgress(), onnx.name)
                rows.append(
                    {
                        "format": fmt.value,
                        "recipe": recipe.name,
                        "error": deviation.error,
                        "agreement": deviation.comparison.agreement,
                    }
                )
    return rows


def _session(onnx: Path, precision: Precision, data: EvaluationSet) -> OrtSession:
    return OrtSession(onnx, precision, bucket_profiles(data.task.buckets, 32))


if __name__ == "__main__":
    main()
