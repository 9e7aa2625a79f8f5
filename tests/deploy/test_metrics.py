from dataclasses import replace

import numpy as np
import pytest
import sklearn.metrics

from calib_data.features import Features
from calib_data.tasks import TASKS, QuestionExample, TextExample
from deploy.errors import EvaluationError
from deploy.evaluate.metrics import CLASS_METRICS
from deploy.evaluate.predictions import ClassPredictions, predict_from_outputs, score

SKLEARN = {"accuracy": sklearn.metrics.accuracy_score, "f1": sklearn.metrics.f1_score}


def rows_of(*lengths, offsets=()):
    arrays = tuple(np.arange(length, dtype=np.int64) for length in lengths)
    return Features(arrays, arrays, np.arange(len(lengths)), offsets)


def examples_of(*labels):
    return tuple(TextExample(str(i), ("x", "y"), label) for i, label in enumerate(labels))


@pytest.mark.parametrize("name", ["accuracy", "f1"])
def test_terms_sum_up_to_scikit_learns_value_on_any_subset(name):
    generator = np.random.default_rng(0)
    labels, predicted = generator.integers(0, 2, size=(2, 300))
    terms = CLASS_METRICS[name].terms(labels, predicted)
    for _ in range(20):
        drawn = generator.integers(0, 300, size=50)
        resampled = replace(terms, values=terms.values[drawn]).total()
        assert resampled == pytest.approx(SKLEARN[name](labels[drawn], predicted[drawn]), abs=1e-12)


def test_f1_is_that_of_the_positive_class():
    labels, predicted = np.array([1, 1, 0, 0, 0]), np.array([1, 0, 1, 0, 0])
    metric = CLASS_METRICS["f1"]
    assert metric.score(labels, predicted) == metric.terms(labels, predicted).total() == 0.5


def test_f1_without_any_positive_is_zero():
    zeros = np.zeros(3, dtype=np.int64)
    metric = CLASS_METRICS["f1"]
    assert metric.score(zeros, zeros) == metric.terms(zeros, zeros).total() == 0.0


def test_logits_become_classes_and_scores():
    task = TASKS["mrpc"]
    rows = ([0.1, 2.0], [3.0, -1.0], [-2.0, -1.0], [0.5, 0.4])
    outputs = {"logits": [np.array(row, dtype=np.float32) for row in rows]}
    examples = examples_of(1, 0, 0, 1)
    predictions = predict_from_outputs(task, examples, rows_of(3, 4, 5, 6), outputs)
    assert isinstance(predictions, ClassPredictions)
    assert predictions.class_ids.tolist() == [1, 0, 1, 0]
    assert score(task, examples, predictions) == {"accuracy": 0.5, "f1": 0.5}


def test_answers_are_scored_by_exact_match_and_f1():
    task = TASKS["squad"]
    examples = (QuestionExample("q", "?", "red car", ("red",), (0,)),)
    offsets = (np.array([[-1, -1], [0, 3], [4, 7]], dtype=np.int32),)
    outputs = {
        "start_logits": [np.array([9, 5, 0], dtype=np.float32)],
        "end_logits": [np.array([9, 0, 5], dtype=np.float32)],
    }
    predictions = predict_from_outputs(task, examples, rows_of(3, offsets=offsets), outputs)
    assert predictions.texts == ("red car",)
    assert score(task, examples, predictions) == {"f1": pytest.approx(2 / 3), "exact_match": 0.0}


@pytest.mark.parametrize(
    ("outputs", "complaint"),
    [
        ({"start_logits": []}, "no output 'logits' (found: start_logits)"),
        ({"logits": [[0, 1]]}, "has 1 rows, 2 were fed"),
        ({"logits": [[0, 1], [0, 1, 2]]}, "row 1: shape [3], expected [2]"),
        ({"logits": [[0, 1], [0, np.nan]]}, "row 1 holds nan"),
        ({"logits": [[-np.inf, 1], [0, 1]]}, "row 0 holds -inf"),
    ],
)
def test_outputs_that_cannot_be_judged_are_refused(outputs, complaint):
    arrays = {k: [np.array(row, dtype=np.float32) for row in rows] for k, rows in outputs.items()}
    with pytest.raises(EvaluationError) as caught:
        predict_from_outputs(TASKS["mrpc"], examples_of(0, 1), rows_of(3, 4), arrays)
    assert complaint in caught.value.message
