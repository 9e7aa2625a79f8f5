"""How far a candidate falls behind the reference on the same examples, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib_data.tasks import Examples, Task
from deploy.errors import EvaluationError
from deploy.evaluation.predictions import (
    AnswerPredictions,
    Predictions,
    ValuePredictions,
    labels_of,
    score_terms,
)
from deploy.evaluation.resampling import Terms
from deploy.evaluation.squad import normalize_answer

_RESAMPLES = 2000  # Efron & Tibshirani ask for at least 1,000 for a percentile interval
_AT_ONCE = 250
_COUNTS_AT_ONCE = 2_000_000  # bounds the memory that one go takes where every example is a kind

# Two numbers that differ by no more than this share of the labels' span predict the same. On
# STS-B's scale from 0 to 5 it is a quarter; the scores themselves are means of ratings by steps.
_SAME_SHARE = 0.05


@dataclass(frozen=True)
class Drop:
    """What a metric loses.

    Attributes:
        drop: Reference value minus candidate value, in the metric's unit; positive is worse.
        relative_drop: `drop` as a share of the reference value's magnitude; 0 where that is 0.
        ci95: Ends of the 95 % bootstrap interval of `drop`.
    """

    drop: float
    relative_drop: float
    ci95: tuple[float, float]


@dataclass(frozen=True)
class Comparison:
    """A candidate against the reference.

    Attributes:
        metric: The drop of each of the task's metrics.
        agreement: Share of examples on which both predict the same, right or wrong: the class, the
            normalized answer text, or, in regression, numbers at most 5 % of the labels' span
            apart.
        changed: Examples on which they do not.
    """

    metric: Mapping[str, Drop]
    agreement: float
    changed: int


def compare(
    task: Task, examples: Examples, reference: Predictions, candidate: Predictions, seed: int = 0
) -> Comparison:
    """Compare two sets of predictions on the same examples, example by example.

    The interval is the percentile interval of a paired bootstrap over examples (Efron &
    Tibshirani 1993, An Introduction to the Bootstrap, chapter 13; paired as in Koehn 2004,
    Statistical Significance Tests for Machine Translation Evaluation): each of 2,000 resamples
    draws as many examples as there are, with replacement, and both sides are scored on the same
    draw. What is hard for both cancels out, so the interval is far narrower than the two scores'
    own.

    Args:
        task: The task the examples belong to.
        examples: What was predicted.
        reference: Predictions of the reference precision.
        candidate: Predictions of the precision in question.
        seed: Of the resampling.

    Raises:
        EvaluationError: The two predict different numbers of examples.
    """
    same = same_predictions(examples, reference, candidate)
    before = score_terms(task, examples, reference)
    after = score_terms(task, examples, candidate)
    intervals = _intervals(before, after, seed)
    return Comparison(
        metric={
            name: _drop(before[name].total(), after[name].total(), intervals[name])
            for name in task.metrics
        },
        agreement=float(same.mean()),
        changed=int(np.count_nonzero(~same)),
    )


def _drop(reference: float, candidate: float, ci95: tuple[float, float]) -> Drop:
    drop = reference - candidate
    return Drop(drop, drop / abs(reference) if reference else 0.0, ci95)


def same_predictions(
    examples: Examples, reference: Predictions, candidate: Predictions
) -> NDArray[np.bool_]:
    """Where both predict the same, as `Comparison.agreement` defines it, bool [examples].

    Raises:
        EvaluationError: The two predict different numbers of examples.
    """
    left, right = _outcomes(reference), _outcomes(candidate)
    if len(left) != len(right):
        raise EvaluationError(
            f"the reference predicts {len(left)} examples, the candidate {len(right)}",
            "evaluate both on the same split with the same limit",
        )
    if isinstance(reference, ValuePredictions):
        return np.asarray(np.abs(left - right) <= _SAME_SHARE * np.ptp(labels_of(examples)))
    return np.asarray(left == right)


def _outcomes(predictions: Predictions) -> NDArray[Any]:
    if isinstance(predictions, ValuePredictions):
        return predictions.values.astype(np.float64)
    if isinstance(predictions, AnswerPredictions):
        return np.array([normalize_answer(text) for text in predictions.texts], dtype=np.str_)
    return predictions.class_ids


def _intervals(
    before: Mapping[str, Terms], after: Mapping[str, Terms], seed: int
) -> dict[str, tuple[float, float]]:
    """The 95 % interval of each metric's drop.

    Drawing n examples with replacement gives multinomial counts of each kind of example, and
    examples with equal terms are of one kind: for accuracy there are four, however many examples.
    """
    sides = [side for name in before for side in (before[name], after[name])]
    kinds, counts = np.unique(
        np.concatenate([side.values for side in sides], axis=1), axis=0, return_counts=True
    )
    total = int(counts.sum())
    generator = np.random.default_rng(seed)
    parts = np.split(kinds, np.cumsum([side.values.shape[1] for side in sides])[:-1], axis=1)
    at_once = max(1, min(_AT_ONCE, _COUNTS_AT_ONCE // len(kinds)))
    goes = []
    for start in range(0, _RESAMPLES, at_once):
        size = min(at_once, _RESAMPLES - start)
        drawn = generator.multinomial(total, counts / total, size=size).astype(np.float64)
        goes.append([side.combine(drawn, part) for side, part in zip(sides, parts, strict=True)])
    values = [np.concatenate(side) for side in zip(*goes, strict=True)]
    intervals = {}
    for index, name in enumerate(before):
        low, high = np.quantile(values[2 * index] - values[2 * index + 1], [0.025, 0.975])
        intervals[name] = (float(low), float(high))
    return intervals
