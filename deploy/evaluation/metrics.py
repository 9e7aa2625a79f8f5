"""Metrics by name, each as one number and in a form that a bootstrap can resample.

Accuracy, F1 and Matthews correlation are scikit-learn's, Pearson and Spearman correlation scipy's,
as in GLUE's own scoring. Where a metric is 0/0, it is 0, and results stay valid JSON: F1 without
any positive, Matthews where labels or predictions are all of one class, and a correlation where
either side is constant or there is one example only (scipy says NaN).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.evaluation.resampling import Floats, Terms, mean_terms, pearson_of_sums, spearman_terms

ClassIds = NDArray[np.int64]


@dataclass(frozen=True)
class Metric:
    """A metric of predictions; both functions take labels and predictions, [examples].

    Class ids are int64, the numbers of a regression task float64.

    Attributes:
        score: The metric: from 0 to 1, or from -1 to 1 for a correlation.
        terms: The same metric, ready to be resampled.
    """

    score: Callable[[NDArray[Any], NDArray[Any]], float]
    terms: Callable[[NDArray[Any], NDArray[Any]], Terms]


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
    return Terms.of_sums(np.stack(counts, axis=1).astype(np.float64), _f1_of_counts)


def _f1_of_counts(sums: Floats) -> Floats:
    doubled = 2.0 * sums[..., 0]
    # Without any positive, claimed or actual, F1 is 0/0; scikit-learn is asked for 0 there too.
    return np.divide(
        doubled,
        doubled + sums[..., 1],
        out=np.zeros_like(doubled),
        where=doubled + sums[..., 1] > 0,
    )


def _matthews(labels: ClassIds, predicted: ClassIds) -> float:
    from sklearn.metrics import matthews_corrcoef

    if len(np.union1d(labels, predicted)) < 2:
        return 0.0  # scikit-learn says so too, with a warning
    return float(matthews_corrcoef(labels, predicted))


def _matthews_terms(labels: ClassIds, predicted: ClassIds) -> Terms:
    classes = np.union1d(labels, predicted)
    parts = [np.ones((len(labels), 1)), (labels == predicted)[:, None]]
    parts += [side[:, None] == classes for side in (labels, predicted)]
    return Terms.of_sums(np.concatenate(parts, axis=1).astype(np.float64), _matthews_of_counts)


def _matthews_of_counts(sums: Floats) -> Floats:
    """R_K of Gorodkin 2004, which for two classes is Matthews' coefficient.

    Args:
        sums: Examples, hits, and examples of each class as labelled and as predicted.
    """
    total, hits = sums[..., 0], sums[..., 1]
    labelled, predicted = np.split(sums[..., 2:], 2, axis=-1)
    covariance = hits * total - (labelled * predicted).sum(axis=-1)
    spread = (total**2 - (labelled**2).sum(axis=-1)) * (total**2 - (predicted**2).sum(axis=-1))
    return np.where(spread > 0, covariance / np.sqrt(np.where(spread > 0, spread, 1.0)), 0.0)


def _correlation(name: str, labels: Floats, predicted: Floats) -> float:
    from scipy import stats

    if len(labels) < 2 or np.ptp(labels) == 0 or np.ptp(predicted) == 0:
        return 0.0
    return float(getattr(stats, name)(labels, predicted).statistic)


def _pearson(labels: Floats, predicted: Floats) -> float:
    return _correlation("pearsonr", labels, predicted)


def _pearson_terms(labels: Floats, predicted: Floats) -> Terms:
    # A shift changes no correlation, and small numbers lose no digits in the sums of squares.
    x, y = labels - np.median(labels), predicted - np.median(predicted)
    values = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)
    return Terms.of_sums(values, pearson_of_sums)


def _spearman(labels: Floats, predicted: Floats) -> float:
    return _correlation("spearmanr", labels, predicted)


METRICS: dict[str, Metric] = {
    "accuracy": Metric(_accuracy, _accuracy_terms),
    "f1": Metric(_f1, _f1_terms),
    "matthews": Metric(_matthews, _matthews_terms),
    "pearson": Metric(_pearson, _pearson_terms),
    "spearman": Metric(_spearman, spearman_terms),
}
"""All metrics of text tasks; `f1` is that of class 1 against all others, as GLUE defines it."""
