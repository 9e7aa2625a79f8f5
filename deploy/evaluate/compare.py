"""How far a candidate falls behind the reference on the same examples, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calib_data.tasks import Examples, Task
from deploy.errors import EvaluationError
from deploy.evaluate.metrics import Terms
from deploy.evaluate.predictions import (
    AnswerPredictions,
    Predictions,
    score_terms,
)
from deploy.evaluate.squad import normalize_answer

_RESAMPLES = 2000  # Efron & Tibshirani ask for at least 1,000 for a percentile interval
_AT_ONCE = 250  # bounds the memory that the counts of one go take


@dataclass(frozen=True)
class Drop:
    """What a metric loses.

    Attributes:
        drop: Reference value minus candidate value, in the metric's unit; positive is worse.
        relative_drop: `drop` as a share of the reference value; 0 where that value is 0.
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
        agreement: Share of examples on which both predict the same, right or wrong: the class, or
            the normalized answer text.
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
    same = _same(reference, candidate)
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
    return Drop(drop, drop / reference if reference else 0.0, ci95)


def _same(reference: Predictions, candidate: Predictions) -> NDArray[np.bool_]:
    left, right = _outcomes(reference), _outcomes(candidate)
    if len(left) != len(right):
        raise EvaluationError(
            f"the reference predicts {len(left)} examples, the candidate {len(right)}",
            "evaluate both on the same split with the same limit",
        )
    return np.asarray(left == right)


def _outcomes(predictions: Predictions) -> NDArray[np.int64] | NDArray[np.str_]:
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
    sums = np.concatenate(
        [
            generator.multinomial(total, counts / total, size=_AT_ONCE) @ kinds
            for _ in range(_RESAMPLES // _AT_ONCE)
        ]
    )
    parts = np.split(sums, np.cumsum([side.values.shape[1] for side in sides])[:-1], axis=1)
    values = [side.combine(part) for side, part in zip(sides, parts, strict=True)]
    intervals = {}
    for index, name in enumerate(before):
        low, high = np.quantile(values[2 * index] - values[2 * index + 1], [0.025, 0.975])
        intervals[name] = (float(low), float(high))
    return intervals
