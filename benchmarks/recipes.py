"""Compare recipes on held-back TRAINING rows, the evidence that the defaults rest on.

For each candidate: how far the encoder's output and the model's outputs move from FP32 (relative
error in the Frobenius norm, padding left out), and on how many rows the prediction stays the same.
The development set is never read.

    python benchmarks/recipes.py --model CHECKPOINT --task sst2 --data-dir DATA --json out.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from rich.console import Console
from rich.table import Table

from calib_data.blocks import as_blocks
from calib_data.demo.model import ensure_demo_model
from calib_data.features import tokenize
from calib_data.progress import SilentProgress
from calib_data.sampler import CalibrationSet, fingerprint, split_sample
from calib_data.sources import load_examples
from calib_data.tasks import Split, get_task
from deploy.engine.ort import OrtSession
from deploy.engine.profiles import bucket_profiles
from deploy.engine.session import Precision
from deploy.evaluation.compare import compare
from deploy.evaluation.deviation import flat_outputs
from deploy.evaluation.harness import EvaluationSet, run_rows
from deploy.evaluation.predictions import predict_from_outputs
from deploy.stages.quantize import write_precision
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
from export.verify import relative_error

# Name of the encoder's result among the outputs of the graphs compared.
_ENCODER = "encoder"

_CALIBRATORS = (
    Calibrator(),
    Calibrator(CalibrationMethod.PERCENTILE, 99.9),
    Calibrator(CalibrationMethod.PERCENTILE, 99.99),
    Calibrator(CalibrationMethod.PERCENTILE, 99.999),
    Calibrator(CalibrationMethod.MSE),
    Calibrator(CalibrationMethod.ENTROPY),
)


# What can be done to a graph ahead of Q/DQ, singly and together.
_RULES: dict[str, dict[str, Any]] = {
    "": {"center_attention": False, "smoothquant": None},
    "centered": {"center_attention": True, "smoothquant": None},
    "SmoothQuant": {"center_attention": False, "smoothquant": 0.5},
    "centered, SmoothQuant": {"center_attention": True, "smoothquant": 0.5},
}


def candidates(fmt: QuantFormat) -> Iterator[QuantRecipe]:
    """The presets, then every calibrator on all sites with every combination of rules."""
    yield from (recipe for recipe in PRESETS.values() if recipe.format is fmt)
    base = PRESETS[fmt.value]
    for calibrator in _CALIBRATORS:
        if fmt is QuantFormat.FP8 and calibrator.method is CalibrationMethod.ENTROPY:
            continue
        kinds = {
            kind: how if kind is SiteKind.LINEAR_WEIGHT else KindRecipe(calibrator)
            for kind, how in base.kinds.items()
        }
        for rules, switches in _RULES.items():
            name = f"{calibrator}, {rules}" if rules else str(calibrator)
            yield replace(base, name=name, kinds=kinds, **switches)


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--task", required=True)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--calib-samples", type=int, default=256)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument(
        "--only", default="*", help="shell pattern of the candidates' names to measure"
    )
    parser.add_argument(
        "--format", choices=[fmt.value for fmt in QuantFormat], help="only this one"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = measure(options)
    table = Table(title=f"{options.model}, {options.task}, {options.rows} held-back training rows")
    for column in ("format", "recipe", "encoder error", "output error", "agreement %"):
        table.add_column(column, no_wrap=True)
    for row in rows:
        table.add_row(
            row["format"],
            row["recipe"],
            f"{row['encoder_error']:.4f}",
            f"{row['error']:.4f}",
            f"{100 * row['agreement']:.2f}",
        )
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Relative errors and agreement of every candidate."""
    task = get_task(options.task)
    source = str(ensure_demo_model()) if options.model == "demo" else options.model
    checkpoint = load_checkpoint(source, task)
    task = replace(task, output_order=checkpoint.label_order or ())
    train = load_examples(task, Split.TRAIN, options.data_dir)
    calibration, held_back = split_sample(
        train, (options.calib_samples, options.rows), options.seed
    )
    length = min(task.max_length, checkpoint.max_length)
    data = EvaluationSet(
        task,
        held_back,
        as_blocks(tokenize(task, checkpoint.tokenizer, held_back, length)),
        checkpoint.tokenizer.pad_token_id,
    )
    features = tokenize(task, checkpoint.tokenizer, calibration, length)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        fp32 = Path(folder) / "model.fp32.onnx"
        graph = export_onnx(checkpoint, task.head)
        _show_encoder(graph)
        write_onnx(graph, fp32)
        table = calibrate(
            checkpoint,
            task,
            CalibrationSet(features, options.seed, fingerprint(features)),
        )
        reference = _outputs(fp32, Precision.FP32, data)
        before = predict_from_outputs(task, held_back, data.features, reference)
        for fmt in [QuantFormat(options.format)] if options.format else QuantFormat:
            for recipe in candidates(fmt):
                if not fnmatchcase(recipe.name, options.only):
                    continue
                onnx = Path(folder) / f"model.{fmt.value}.onnx"
                write_precision(fp32, onnx, recipe, table, FloatType.FP16)
                outputs = _outputs(onnx, Precision(fmt.value), data)
                after = predict_from_outputs(task, held_back, data.features, outputs)
                rows.append(
                    {
                        "format": fmt.value,
                        "recipe": recipe.name,
                        "encoder_error": relative_error(
                            _encoder(outputs, data), _encoder(reference, data)
                        ),
                        "error": relative_error(_logits(outputs), _logits(reference)),
                        "agreement": compare(task, held_back, before, after).agreement,
                    }
                )
    return rows


def _outputs(onnx: Path, precision: Precision, data: EvaluationSet) -> dict[str, list[Any]]:
    session = OrtSession(onnx, precision, bucket_profiles(data.task.buckets, 32))
    return run_rows(session, data, SilentProgress(), onnx.name).values


def _show_encoder(model: ir.Model) -> None:
    """Make the last LayerNorm's result an output of the graph."""
    *_, last = (node for node in model.graph if node.op_type == "LayerNormalization")
    last.outputs[0].name = _ENCODER
    model.graph.outputs.append(last.outputs[0])


def _encoder(outputs: dict[str, list[Any]], data: EvaluationSet) -> Any:
    rows = zip(outputs[_ENCODER], data.features.lengths, strict=True)
    return np.concatenate([row[:length].ravel() for row, length in rows])


def _logits(outputs: dict[str, list[Any]]) -> Any:
    return flat_outputs({name: rows for name, rows in outputs.items() if name != _ENCODER})


if __name__ == "__main__":
    main()
