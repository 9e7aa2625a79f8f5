"""Build an FP8 plan of BERT-base with random weights, and say what was fused.

Needs tensorrt-rtx and no GPU; the weights do not matter to what the builder fuses.

    python benchmarks/bert_base_plan.py --target sm89 --buckets 128,384 --json out.json
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from calib_data.demo.model import ensure_demo_model
from calib_data.features import Features
from calib_data.sampler import CalibrationSet, fingerprint
from calib_data.tasks import get_task
from deploy.engine.builder import EngineSpec, Flavour, build_engine
from deploy.engine.expected import expected_fusion
from deploy.engine.fusion import fusion_by_profile
from deploy.engine.layers import parse_layers
from deploy.engine.profiles import bucket_profiles
from export.calibrate import calibrate
from export.checkpoint import load_checkpoint
from export.onnx_export import export_onnx
from export.onnx_file import read_onnx, write_onnx
from export.precision import FloatType, cast_floats
from export.qdq import insert_qdq
from export.recipe import PRESETS

_SAMPLES, _TOKENS = 16, 128


def main() -> None:
    """Build and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default="sm89")
    parser.add_argument("--buckets", default="128,384")
    parser.add_argument("--max-batch", type=int, default=32)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    buckets = tuple(int(bucket) for bucket in options.buckets.split(","))
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), buckets, options.max_batch, options.target)
    table = Table(title=f"BERT-base FP8, {options.target}: plan {found['plan_bytes'] / 1e6:.1f} MB")
    for column in ("sequence", "8-bit GEMMs", "fused attention", "layers"):
        table.add_column(column)
    for each in found["profiles"]:
        table.add_row(
            str(each["profile"]["max"]["sequence"]),
            f"{each['quantized_gemms']} of {each['expected_gemms']}",
            f"{each['fused_attention']} of {each['expected_attention']}",
            str(each["layers"]),
        )
    console = Console()
    console.print(table)
    console.print(found["seconds"], f"peak memory {found['peak_gb']:.1f} GB")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def measure(folder: Path, buckets: tuple[int, ...], max_batch: int, target: str) -> dict[str, Any]:
    """Run the chain on random weights."""
    task = get_task("sst2")
    seconds: dict[str, float] = {}
    started = time.monotonic()

    def lap(stage: str) -> None:
        nonlocal started
        seconds[stage] = round(time.monotonic() - started, 1)
        started = time.monotonic()

    _save_bert_base(folder)
    checkpoint = load_checkpoint(str(folder), task)
    lap("load")
    onnx = folder / "model.onnx"
    write_onnx(export_onnx(checkpoint, task.head), onnx)
    lap("export")
    table = calibrate(checkpoint, task, _random_rows())
    lap("calibrate")
    model = read_onnx(onnx)
    insert_qdq(model, PRESETS["fp8"], table, FloatType.FP16)
    cast_floats(model, FloatType.FP16)
    write_onnx(model, onnx)
    lap("quantize")
    profiles = bucket_profiles(buckets, max_batch)
    built = build_engine(EngineSpec(onnx, Flavour.TENSORRT_RTX, profiles, target))
    lap("compile")
    expected = expected_fusion(read_onnx(onnx))
    fusion = fusion_by_profile(parse_layers(built.log), expected, profiles, target)
    return {
        "plan_bytes": len(built.plan),
        "onnx_bytes": onnx.stat().st_size,
        "profiles": [asdict(each) for each in fusion],
        "seconds": seconds,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }


def _save_bert_base(folder: Path) -> None:
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    BertForSequenceClassification(BertConfig()).save_pretrained(folder)
    # Any tokenizer will do: the rows below are random token ids.
    AutoTokenizer.from_pretrained(ensure_demo_model()).save_pretrained(folder)


def _random_rows() -> CalibrationSet:
    ids = tuple(np.random.default_rng(0).integers(1000, 30_000, (_SAMPLES, _TOKENS)))
    features = Features(ids, tuple(np.zeros_like(row) for row in ids), np.arange(_SAMPLES), ())
    return CalibrationSet(features, 0, fingerprint(features))


if __name__ == "__main__":
    main()
