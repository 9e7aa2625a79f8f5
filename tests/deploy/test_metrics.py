from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
import torch
import torchmetrics.functional as torchmetrics

from calib_data.features import Features
from calib_data.tasks import TASKS, QuestionExample, TextExample
from deploy.errors import EvaluationError
from deploy.evaluation.metrics import METRICS
from deploy.evaluation.predictions import (
    ClassPredictions,
    ValuePredictions,
    predict_from_outputs,
    score,
)

# The functions that GLUE's own scoring calls (glue_compute_metrics, the hub's `glue` metric).
OFFICIAL = {
    "accuracy": sklearn.metrics.accuracy_score,
    "f1": sklearn.metrics.f1_score,
    "matthews": sklearn.metrics.matthews_corrcoef,
    "pearson": lambda x, y: scipy.stats.pearsonr(x, y)[0],
    "spearman": lambda x, y: scipy.stats.spearmanr(x, y)[0],
}
SECOND = {
    "accuracy": torchmetrics.accuracy,
    "f1": torchmetrics.f1_score,
    "matthews": torchmetrics.matthews_corrcoef,
    "pearson": torchmetrics.pearson_corrcoef,
    "spearman": torchmetrics.spearman_corrcoef,
}
CORRELATIONS = ("pearson", "spearman")


def rows_of(*lengths, offsets=()):
    arrays = tuple(np.arange(length, dtype=np.int64) for length in lengths)
    return Features(arrays, arrays, np.arange(len(lengths)), offsets)


def examples_of(*labels):
    return tuple(TextExample(str(i), ("x", "y"), label) for i, label in enumerate(labels))


def case(name, classes=2, size=300, seed=0):
    """Labels, and predictions that are right more often than not."""
    generator = np.random.default_rng(seed)
    if name in CORRELATIONS:
        labels = generator.integers(0, 26, size=size) / 5  # STS-B's scale, with its ties
        noise = np.round(generator.normal(size=size), 1)  # ties among predictions too
        return labels, (labels + noise).astype(np.float32).astype(np.float64)
    labels, others = generator.integers(0, classes, size=(2, size))
    return labels, np.where(generator.random(size) < 0.6, labels, others)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", OFFICIAL)
def test_scores_equal_the_official_ones_and_torchmetrics(name, seed):
    labels, predicted = case(name, seed=seed)
    score = METRICS[name].score(labels, predicted)
    assert 0.3 < score < 0.95
    assert score == pytest.approx(OFFICIAL[name](labels, predicted), abs=1e-12)
    task = {} if name in CORRELATIONS else {"task": "binary"}
    second = SECOND[name](torch.tensor(predicted), torch.tensor(labels), **task)
    # torchmetrics counts, ranks and divides in FP32; only its Pearson keeps the type of the data.
    assert score == pytest.approx(float(second), abs=1e-9 if name == "pearson" else 1e-6)


def test_matthews_of_several_classes_is_the_r_k_statistic():
    labels, predicted = case("matthews", classes=4)
    metric = METRICS["matthews"]
    expected = sklearn.metrics.matthews_corrcoef(labels, predicted)
    assert metric.score(labels, predicted) == expected
    assert metric.terms(labels, predicted).total() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", OFFICIAL)
def test_terms_give_the_official_value_on_any_resampling(name):
    generator = np.random.default_rng(0)
    labels, predicted = case(name)
    terms = METRICS[name].terms(labels, predicted)
    for _ in range(20):
        drawn = generator.integers(0, 300, size=50)  # some of them more than once
        expected = OFFICIAL[name](labels[drawn], predicted[drawn])
        assert replace(terms, values=terms.values[drawn]).total() == pytest.approx(
            expected, abs=1e-9
        )
        counts = np.bincount(drawn, minlength=300).astype(np.float64)
        assert terms.combine(counts, terms.values) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("constant", [0.1, 1e6, -3.3])
@pytest.mark.parametrize("name", CORRELATIONS)
def test_a_correlation_with_a_constant_is_zero(name, constant):
    labels, _ = case(name)
    flat = np.full(len(labels), constant)
    metric = METRICS[name]
    for pair in ((labels, flat), (flat, labels), (flat, flat), (labels[:1], labels[:1])):
        assert metric.score(*pair) == metric.terms(*pair).total() == 0.0


@pytest.mark.parametrize("name", CORRELATIONS)
def test_correlations_keep_their_digits_far_from_zero(name):
    labels, predicted = case(name)
    expected = OFFICIAL[name](labels, predicted)
    shifted = METRICS[name].terms(labels, predicted + 1e6)
    # Adding 1e6 itself rounds at 1e-10.
    assert shifted.total() == pytest.approx(expected, abs=1e-8)


def test_matthews_of_one_predicted_class_is_zero():
    labels, _ = case("matthews")
    metric = METRICS["matthews"]
    for pair in ((labels, np.ones_like(labels)), (np.ones_like(labels), np.ones_like(labels))):
        assert metric.score(*pair) == metric.terms(*pair).total() == 0.0


def test_f1_is_that_of_the_positive_class():
    labels, predicted = np.array([1, 1, 0, 0, 0]), np.array([1, 0, 1, 0, 0])
    metric = METRICS["f1"]
    assert metric.score(labels, predicted) == metric.terms(labels, predicted).total() == 0.5


def test_f1_without_any_positive_is_zero():
    zeros = np.zeros(3, dtype=np.int64)
    metric = METRICS["f1"]
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


def test_logits_of_a_model_with_its_own_order_become_the_tasks_classes():
    task = replace(TASKS["mnli"], output_order=(2, 0, 1))
    outputs = {"logits": [np.array(row, dtype=np.float32) for row in ([0, 1, 9], [8, 2, 3])]}
    predictions = predict_from_outputs(task, examples_of(0, 1), rows_of(3, 4), outputs)
    assert predictions.logits.tolist() == [[9, 0, 1], [3, 8, 2]]
    assert score(task, examples_of(0, 1), predictions) == {"accuracy": 1.0}


def test_one_output_is_a_number():
    task = TASKS["stsb"]
    outputs = {"logits": [np.array([value], dtype=np.float32) for value in (0.5, 2.5, 3.0)]}
    examples = examples_of(0.0, 5.0, 2.5)
    predictions = predict_from_outputs(task, examples, rows_of(3, 4, 5), outputs)
    assert isinstance(predictions, ValuePredictions)
    assert predictions.values.tolist() == [0.5, 2.5, 3.0]
    result = score(task, examples, predictions)
    assert list(result) == ["pearson", "spearman"]
    assert result["spearman"] == pytest.approx(0.5)
    wrong = {"logits": [np.zeros(2, dtype=np.float32)] * 3}
    with pytest.raises(EvaluationError, match=r"shape \[2\], expected \[1\]"):
        predict_from_outputs(task, examples, rows_of(3, 4, 5), wrong)


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
