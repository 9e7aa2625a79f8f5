"""How far a candidate's outputs, predictions and metrics lie from a reference's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib_data.progress import Progress
from deploy.engine.session import Session
from deploy.evaluation.compare import Comparison, compare
from deploy.evaluation.harness import EvaluationSet, run_rows
from deploy.evaluation.predictions import Predictions, predict_from_outputs, score
from export.verify import relative_error


@dataclass(frozen=True)
class Reference:
    """What candidates are held against.

    Attributes:
        data: The rows that were run.
        outputs: All outputs of all rows, one after the other, [values].
        predictions: What they predict.
        metrics: Metric name to value, 0 to 1.
    """

    data: EvaluationSet
    outputs: NDArray[Any]
    predictions: Predictions
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Deviation:
    """A candidate against the reference.

    Attributes:
        error: Relative error of the outputs in the Frobenius norm; it moves long before a
            prediction does.
        comparison: Change of metrics and predictions.
    """

    error: float
    comparison: Comparison


def run_reference(
    session: Session, data: EvaluationSet, progress: Progress, description: str
) -> Reference:
    """Run the session that others are held against.

    Raises:
        EvaluationError: The outputs do not fit the task, or hold NaN.
    """
    outputs = run_rows(session, data, progress, description).values
    predictions = predict_from_outputs(data.task, data.examples, data.features, outputs)
    metrics = score(data.task, data.examples, predictions)
    return Reference(data, flat_outputs(outputs), predictions, metrics)


def run_deviation(
    session: Session, reference: Reference, progress: Progress, description: str
) -> Deviation:
    """Run a candidate on the reference's rows.

    Raises:
        EvaluationError: The outputs do not fit the task, or hold NaN.
    """
    data = reference.data
    outputs = run_rows(session, data, progress, description).values
    predictions = predict_from_outputs(data.task, data.examples, data.features, outputs)
    return Deviation(
        error=relative_error(flat_outputs(outputs), reference.outputs),
        comparison=compare(data.task, data.examples, reference.predictions, predictions),
    )


def flat_outputs(outputs: Mapping[str, Sequence[NDArray[Any]]]) -> NDArray[Any]:
    """All outputs of all rows, one after the other, [values]."""
    return np.concatenate([row.ravel() for name in sorted(outputs) for row in outputs[name]])
