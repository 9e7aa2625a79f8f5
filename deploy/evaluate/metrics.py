"""Metrics by name, each as one number and as terms that a bootstrap can resample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ClassIds = NDArray[np.int64]


@dataclass(frozen=True)
class Terms:
    """A metric as a function of sums over examples.

    Any resampling of the examples then costs a sum, not another look at the predictions.

    Attributes:
        values: What each example adds to the sums, float64 [examples, k].
        combine: The metric, [...], from sums, [..., k].
    """

    values: NDArray[np.float64]
    combine: Callable[[NDArray[np.float64]], NDArray[np.float64]]

    def total(self) -> float:
        """The metric over all examples."""
        return float(self.combine(self.values.sum(axis=0)))


@dataclass(frozen=True)
class ClassMetric:
    """A metric of predicted class ids; both functions take labels and predictions, [examples].

    Attributes:
        score: The metric, from 0 to 1.
        terms: The same metric, ready to be resampled.
    """

    score: Callable[[ClassIds, ClassIds], float]
    terms: Callable[[ClassIds, ClassIds], Terms]


def mean_terms(values: NDArray[np.float64]) -> Terms:
    """The terms of a metric that is the mean of one value per example, float64 [examples]."""
    return Terms(
        np.stack([values, np.ones_like(values)], axis=1), lambda sums: sums[..., 0] / sums[..., 1]
    )


def _accuracy(labels: ClassIds, predicted: ClassIds) -> float:
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(labels, predicted))


def _accuracy_terms(labels: ClassIds, predicted: ClassIds) -> Terms:
    return mean_terms((labels == predicted).astype(np.float64))


def _f1(labels: ClassIds, predicted: ClassIds) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(labels == 1, predicted == 1, zero_division=0.0))


def _f1_terms(labels: ClassIds, predicted: ClassIds) -> Terms:
    actual, claimed = labels == 1, predicted == 1
    counts = [actual & claimed, actual ^ claimed]  # true positives; false ones of either kind
    return Terms(np.stack(counts, axis=1).astype(np.float64), _f1_of_counts)


def _f1_of_counts(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    doubled = 2.0 * sums[..., 0]
    # Without any positive, claimed or actual, F1 is 0/0; scikit-learn is asked for 0 there too.
    return np.divide(
        doubled,
        doubled + sums[..., 1],
        out=np.zeros_like(doubled),
        where=doubled + sums[..., 1] > 0,
    )


CLASS_METRICS: dict[str, ClassMetric] = {
    "accuracy": ClassMetric(_accuracy, _accuracy_terms),
    "f1": ClassMetric(_f1, _f1_terms),
}
"""Accuracy, and the F1 of class 1 against all others, as GLUE defines it for MRPC."""
