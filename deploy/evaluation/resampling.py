"""Metrics as functions of how often each example is drawn, for the bootstrap."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# A variance below this share of the mean square is rounding.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Terms:
    """A metric, as a function of what it needs to know of each example and of its count.

    Any resampling of the examples is then a vector of counts, and examples of equal values are of
    one kind that need not be told apart.

    Attributes:
        values: What the metric needs to know of each example, float64 [examples, k].
        combine: The metric, [...], from counts, [..., kinds], and the values of the kinds,
            [kinds, k].
    """

    values: Floats
    combine: Callable[[Floats, Floats], Floats]

    @staticmethod
    def of_sums(values: Floats, combine: Callable[[Floats], Floats]) -> Terms:
        """The terms of a metric that depends on the sums of `values` over examples alone."""
        return Terms(values, lambda counts, kinds: combine(counts @ kinds))

    def total(self) -> float:
        """The metric over all examples."""
        return float(self.combine(np.ones(len(self.values)), self.values))


def mean_terms(values: Floats) -> Terms:
    """The terms of a metric that is the mean of one value per example, float64 [examples]."""
    return Terms.of_sums(
        np.stack([values, np.ones_like(values)], axis=1), lambda sums: sums[..., 0] / sums[..., 1]
    )


def pearson_of_sums(sums: Floats) -> Floats:
    """Pearson correlation, [...], from the sums of 1, x, y, x^2, y^2 and xy, [..., 6].

    0 where either side is constant.
    """
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    spread_x, spread_y = n * xx - x * x, n * yy - y * y
    varies = (spread_x > _ROUNDING * n * xx) & (spread_y > _ROUNDING * n * yy)
    spread = np.sqrt(np.where(varies, spread_x * spread_y, 1.0))
    return np.where(varies, (n * xy - x * y) / spread, 0.0)


def spearman_terms(labels: Floats, predicted: Floats) -> Terms:
    """The terms of Spearman correlation: every resampling is ranked anew."""
    return Terms(np.stack([labels, predicted], axis=1).astype(np.float64), _spearman_of_counts)


def _spearman_of_counts(counts: Floats, kinds: Floats) -> Floats:
    n = counts.sum(axis=-1, keepdims=True)
    # Ranks run from 1 to n, with or without ties, so (n + 1) / 2 is their mean.
    x, y = (_mid_ranks(counts, kinds[:, side]) - (n + 1) / 2 for side in (0, 1))
    spread = (counts * x * x).sum(axis=-1) * (counts * y * y).sum(axis=-1)
    covariance = (counts * x * y).sum(axis=-1)
    return np.where(spread > 0, covariance / np.sqrt(np.where(spread > 0, spread, 1.0)), 0.0)


def _mid_ranks(counts: Floats, values: Floats) -> Floats:
    """The mean rank of each kind among all drawn examples, from 1; ties share theirs.

    Args:
        counts: How often each kind is drawn, [..., kinds].
        values: What is ranked, [kinds].
    """
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.diff(values[order], prepend=-np.inf))
    tied = np.add.reduceat(counts[..., order], starts, axis=-1)
    mean = np.cumsum(tied, axis=-1) - (tied - 1) / 2
    group = np.empty(len(values), dtype=np.intp)
    group[order] = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(values)))
    return mean[..., group]
