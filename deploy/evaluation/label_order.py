"""Whether a model that does not name its labels seems to number them otherwise than the task."""

from __future__ import annotations

import numpy as np

from calib_data.tasks import Examples, Task
from deploy.evaluation.predictions import ClassPredictions, Predictions, labels_of

# So unlikely by chance that it would be a false alarm once in a thousand useless models.
_SIGNIFICANCE = 1e-3


def seems_permuted(task: Task, examples: Examples, predictions: Predictions) -> bool:
    """Whether accuracy lies significantly below that of guessing.

    A model that has learnt nothing is right on one of `len(task.labels)` examples. One that is
    right far less often knows the classes, but under other numbers: a one-sided binomial test at
    p < 0.001.
    """
    if not isinstance(predictions, ClassPredictions):
        return False
    from scipy.stats import binomtest

    hits = int(np.count_nonzero(labels_of(examples) == predictions.class_ids))
    chance = 1 / len(task.labels)
    test = binomtest(hits, len(examples), chance, alternative="less")
    return bool(test.pvalue < _SIGNIFICANCE)
