"""Run a session over a data set: length-sorted batches, each padded to its bucket."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib_data.batching import Batch, bucketed_batches, collate
from calib_data.blocks import Blocks, join_blocks
from calib_data.features import Features
from calib_data.progress import Progress
from calib_data.tasks import Examples, Head, Task
from deploy.engine.profiles import Profile
from deploy.engine.session import Arrays, Precision, Session, SessionInfo
from deploy.errors import EvaluationError
from deploy.evaluation.journal import Answer, Journal
from deploy.evaluation.predictions import Predictions, predict_from_outputs, score


@dataclass(frozen=True)
class EvaluationSet:
    """What every precision of a build is judged on.

    Attributes:
        task: The task.
        examples: Its development examples.
        blocks: The same, tokenized; those at the end may still be in the making.
        pad_token_id: What padding is written as.
        left_out: How many more examples the data set has, which are not judged.
    """

    task: Task
    examples: Examples
    blocks: Blocks
    pad_token_id: int
    left_out: int = 0

    @cached_property
    def features(self) -> Features:
        """All rows, once they are there.

        Raises:
            TokenizationError: An example cannot be tokenized.
        """
        return join_blocks(self.blocks)


@dataclass(frozen=True)
class RowOutputs:
    """What a session gave for every feature row.

    Attributes:
        values: By output name, one array per row in the order of the rows: [classes], or [tokens]
            with the padding cut off.
        seconds: Time in the session, by whatever process: a resumed evaluation counts all of it.
    """

    values: dict[str, list[NDArray[Any]]]
    seconds: float


@dataclass(frozen=True)
class Run:
    """One evaluation.

    Attributes:
        precision: Of the model.
        recipe: Name of its recipe; None where nothing is quantized.
        info: What executed it, and how.
        metrics: Metric name to value, 0 to 1, correlations from -1.
        n: Number of examples.
        examples_total: Number of examples in the data set, those that were left out too.
        seconds: Time in the session, tokenization and metrics left out.
        predictions: What it predicted.
    """

    precision: Precision
    recipe: str | None
    info: SessionInfo
    metrics: dict[str, float]
    n: int
    examples_total: int
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
        EvaluationError: The outputs do not fit the task, or are not finite.
    """
    outputs = run_rows(session, data, progress, f"Evaluating {precision.value}")
    return judge(session.info, precision, recipe, data, outputs)


def judge(
    info: SessionInfo,
    precision: Precision,
    recipe: str | None,
    data: EvaluationSet,
    outputs: RowOutputs,
) -> Run:
    """Turn outputs into predictions, and rate them.

    Raises:
        EvaluationError: The outputs do not fit the task, or are not finite.
    """
    with _naming(precision, info):
        predictions = predict_from_outputs(data.task, data.examples, data.features, outputs.values)
    return Run(
        precision=precision,
        recipe=recipe,
        info=info,
        metrics=score(data.task, data.examples, predictions),
        n=len(data.examples),
        examples_total=len(data.examples) + data.left_out,
        seconds=outputs.seconds,
        predictions=predictions,
    )


def run_rows(
    session: Session,
    data: EvaluationSet,
    progress: Progress,
    description: str,
    journal: Journal | None = None,
) -> RowOutputs:
    """Run every feature row.

    Batches are the same, whatever is tokenized or known already.

    Args:
        session: What runs them.
        data: Where the rows are.
        progress: Told about each batch.
        description: What it is told.
        journal: Keeps the answers, and has those of an evaluation that was stopped.

    Raises:
        UsageError: A row is longer than the session's longest profile.
        TokenizationError: An example cannot be tokenized.
        BuildFolderError: The journal cannot be written.
    """
    per_token = data.task.head is Head.QUESTION_ANSWERING
    values: dict[str, list[NDArray[Any]]] = {}
    seconds = 0.0

    def run(inputs: Arrays) -> Answer:
        started = time.monotonic()
        outputs = session.run(inputs)
        return Answer(outputs, time.monotonic() - started)

    for number, block in enumerate(data.blocks, start=1):
        features = block.result()
        lengths = features.lengths
        batches = batches_for(session.profiles, features)
        part = f" ({number} of {len(data.blocks)})" if len(data.blocks) > 1 else ""
        found: dict[str, list[NDArray[Any]]] = {}
        for batch in progress.track(batches, description + part, total=len(batches)):
            inputs = collate(features, batch, data.pad_token_id)
            answer = run(inputs) if journal is None else journal.answer(inputs, run)
            seconds += answer.seconds
            for name, output in answer.outputs.items():
                rows = found.setdefault(name, [np.empty(0)] * len(lengths))
                for line, row in enumerate(batch.rows):
                    rows[row] = output[line, : lengths[row]] if per_token else output[line]
        for name, rows in found.items():
            values.setdefault(name, []).extend(rows)
    return RowOutputs(values, seconds)


def batches_for(profiles: tuple[Profile, ...], features: Features) -> tuple[Batch, ...]:
    """The batches that a session is fed: as large as its profiles take, and no longer than it must.

    Raises:
        UsageError: A row is longer than the longest profile.
    """
    return bucketed_batches(
        features.lengths,
        tuple(profile.max.sequence for profile in profiles),
        min(profile.max.batch for profile in profiles),
        tuple(profile.min.sequence for profile in profiles),
    )


@contextmanager
def _naming(precision: Precision, info: SessionInfo) -> Iterator[None]:
    """Say in an error which precision it is about, and what ran it."""
    try:
        yield
    except EvaluationError as error:
        raise EvaluationError(
            f"{precision.value} on {info.backend.value}: {error.message}", error.remedy
        ) from error
