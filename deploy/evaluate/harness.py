"""Run a session over a data set: length-sorted batches, each padded to its bucket."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib_data.batching import bucketed_batches, collate
from calib_data.features import Features
from calib_data.progress import Progress
from calib_data.tasks import Examples, Head, Task
from deploy.engine.session import Precision, Session, SessionInfo
from deploy.evaluate.predictions import Predictions, predict_from_outputs, score


@dataclass(frozen=True)
class EvaluationSet:
    """What every precision of a build is judged on.

    Attributes:
        task: The task.
        examples: Its development examples.
        features: The same, tokenized.
        pad_token_id: What padding is written as.
    """

    task: Task
    examples: Examples
    features: Features
    pad_token_id: int


@dataclass(frozen=True)
class Run:
    """One evaluation.

    Attributes:
        precision: Of the model.
        recipe: Name of its recipe; None where nothing is quantized.
        info: What executed it, and how.
        metrics: Metric name to value, 0 to 1.
        n: Number of examples.
        seconds: Time in the session, tokenization and metrics left out.
        predictions: What it predicted.
    """

    precision: Precision
    recipe: str | None
    info: SessionInfo
    metrics: dict[str, float]
    n: int
    seconds: float
    predictions: Predictions


def evaluate(
    session: Session,
    precision: Precision,
    recipe: str | None,
    data: EvaluationSet,
    progress: Progress,
) -> Run:
    """Judge a session on a data set.

    Raises:
        UsageError: A row is longer than the session's longest profile.
        EvaluationError: The outputs do not fit the task, or hold NaN.
    """
    started = time.monotonic()
    outputs = run_rows(session, data, progress, f"Evaluating {precision.value}")
    seconds = time.monotonic() - started
    predictions = predict_from_outputs(data.task, data.examples, data.features, outputs)
    return Run(
        precision=precision,
        recipe=recipe,
        info=session.info,
        metrics=score(data.task, data.examples, predictions),
        n=len(data.examples),
        seconds=seconds,
        predictions=predictions,
    )


def run_rows(
    session: Session, data: EvaluationSet, progress: Progress, description: str
) -> dict[str, list[NDArray[Any]]]:
    """Run every feature row.

    Returns:
        By output name, one array per row in the order of the rows: [classes], or [tokens] with the
        padding cut off.
    """
    lengths = data.features.lengths
    buckets = tuple(profile.max.sequence for profile in session.profiles)
    batch_size = min(profile.max.batch for profile in session.profiles)
    batches = bucketed_batches(lengths, buckets, batch_size)
    per_token = data.task.head is Head.QUESTION_ANSWERING
    outputs: dict[str, list[NDArray[Any]]] = {}
    for batch in progress.track(batches, description, total=len(batches)):
        results = session.run(collate(data.features, batch, data.pad_token_id))
        for name, values in results.items():
            rows = outputs.setdefault(name, [np.empty(0)] * len(lengths))
            for line, row in enumerate(batch.rows):
                rows[row] = values[line, : lengths[row]] if per_token else values[line]
    return outputs
