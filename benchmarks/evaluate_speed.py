"""How fast an evaluation is, beside one that pads every row to the task's longest.

Both run the same FP32 model on onnxruntime, in turn, from texts to metrics, with the tokenizer's
cache empty. The other one is what a plain loop does: all texts tokenized, batches in the order of
the data, every row padded to the task's maximum length (128 in GLUE, 384 in SQuAD), then metrics.

    python benchmarks/evaluate_speed.py --data-dir DATA --json speed.json
        --checkpoint CHECKPOINTS/minilm-sst2:sst2 --checkpoint CHECKPOINTS/minilm-squad:squad
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from calib_data.batching import Batch, collate
from calib_data.blocks import tokenize_blocks
from calib_data.cache import CACHE_VARIABLE
from calib_data.features import tokenize
from calib_data.progress import SilentProgress
from calib_data.sources import load_examples
from calib_data.tasks import Examples, Head, Split, Task, get_task
from deploy.engine.ort import OrtSession
from deploy.engine.profiles import any_length, bucket_profiles
from deploy.engine.session import Precision
from deploy.environment import describe_environment
from deploy.evaluation.harness import EvaluationSet, evaluate
from deploy.evaluation.predictions import predict_from_outputs, score
from export.checkpoint import Checkpoint, load_checkpoint
from export.onnx_export import export_onnx
from export.onnx_file import write_onnx

_BATCH = 32


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--checkpoint", action="append", required=True, metavar="PATH:TASK", help="may be repeated"
    )
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--examples", type=int, default=872, help="spread over the dev set")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = []
    for item in options.checkpoint:
        source, _, name = item.rpartition(":")
        task = get_task(name)
        examples = load_examples(task, Split.DEV, options.data_dir)
        step = max(1, len(examples) // options.examples)
        found.append(measure(source, task, examples[::step][: options.examples], options.rounds))
    table = Table(title="From texts to metrics, examples per second, median of rounds")
    for column in ("task", "examples", "all padded to", "padded", "ours", "ratio"):
        table.add_column(column, justify="left" if column == "task" else "right")
    for each in found:
        table.add_row(
            each["task"],
            str(each["examples"]),
            str(each["padded_to"]),
            f"{each['padded_per_s']:.1f}",
            f"{each['ours_per_s']:.1f}",
            f"{each['ratio']:.2f}x",
        )
    Console().print(table)
    if options.json:
        report = {"rounds": options.rounds, "runs": found, "environment": describe_environment()}
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def measure(source: str, task: Task, examples: Examples, rounds: int) -> dict[str, Any]:
    """Time both ways of evaluating a checkpoint, one after the other in every round."""
    checkpoint = load_checkpoint(source, task)
    task = replace(task, output_order=checkpoint.label_order or ())
    with tempfile.TemporaryDirectory() as folder:
        onnx = Path(folder) / "model.onnx"
        write_onnx(export_onnx(checkpoint, task.head), onnx)
        padded = OrtSession(onnx, Precision.FP32, bucket_profiles((task.max_length,), _BATCH))
        ours = OrtSession(onnx, Precision.FP32, any_length(bucket_profiles(task.buckets, _BATCH)))
        ways: dict[str, Callable[[], dict[str, float]]] = {
            "padded": lambda: _evaluate_padded(padded, task, checkpoint, examples),
            "ours": lambda: _evaluate_ours(ours, task, checkpoint, examples),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        metrics: dict[str, dict[str, float]] = {}
        for _ in range(rounds):
            for name, way in ways.items():
                started = time.perf_counter()
                metrics[name] = way()
                seconds[name].append(time.perf_counter() - started)
    rates = {name: len(examples) / statistics.median(each) for name, each in seconds.items()}
    return {
        "task": task.name,
        "examples": len(examples),
        "batch": _BATCH,
        "padded_to": task.max_length,
        "padded_per_s": rates["padded"],
        "ours_per_s": rates["ours"],
        "ratio": rates["ours"] / rates["padded"],
        "seconds": seconds,
        "metrics": metrics,
    }


def _evaluate_ours(
    session: OrtSession, task: Task, checkpoint: Checkpoint, examples: Examples
) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as cache:
        before = os.environ.get(CACHE_VARIABLE)
        os.environ[CACHE_VARIABLE] = cache
        try:
            tokenizer = checkpoint.tokenizer
            blocks = tokenize_blocks(task, tokenizer, examples, task.max_length)
            data = EvaluationSet(task, examples, blocks, tokenizer.pad_token_id)
            return evaluate(session, Precision.FP32, None, data, SilentProgress()).metrics
        finally:
            os.environ.pop(CACHE_VARIABLE)
            if before is not None:
                os.environ[CACHE_VARIABLE] = before


def _evaluate_padded(
    session: OrtSession, task: Task, checkpoint: Checkpoint, examples: Examples
) -> dict[str, float]:
    features = tokenize(task, checkpoint.tokenizer, examples, task.max_length)
    lengths = features.lengths
    outputs: dict[str, list[NDArray[Any]]] = {}
    for start in range(0, len(lengths), _BATCH):
        batch = Batch(np.arange(start, min(start + _BATCH, len(lengths))), task.max_length)
        inputs = collate(features, batch, checkpoint.tokenizer.pad_token_id)
        for name, values in session.run(inputs).items():
            rows = outputs.setdefault(name, [])
            if task.head is Head.QUESTION_ANSWERING:
                rows += [values[line, : lengths[row]] for line, row in enumerate(batch.rows)]
            else:
                rows += list(values)
    return score(task, examples, predict_from_outputs(task, examples, features, outputs))


if __name__ == "__main__":
    main()
