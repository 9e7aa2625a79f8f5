from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics

from calib_data.batching import bucketed_batches, collate
from calib_data.features import Features, tokenize
from calib_data.sources import load_examples
from calib_data.tasks import TASKS, QuestionExample, Split, TextExample
from deploy.errors import EvaluationError
from deploy.evaluate.metrics import CLASS_METRICS
from deploy.evaluate.predictions import ClassPredictions, predict_from_outputs, score

SHARED = Path(__file__).parents[2] / "../shared"
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


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared data")
def test_real_model_gets_its_known_number_of_sst2_rows_right():
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    task, folder = TASKS["sst2"], SHARED / "checkpoints/minilm-sst2"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    examples = load_examples(task, Split.DEV, SHARED / "data")
    features = tokenize(task, tokenizer, examples, task.max_length)
    logits = [np.empty(0, dtype=np.float32)] * len(features.input_ids)
    for batch in bucketed_batches(features.lengths, task.buckets, 32):
        arrays = collate(features, batch, tokenizer.pad_token_id)
        with torch.inference_mode():
            output = model(**{name: torch.from_numpy(a) for name, a in arrays.items()}).logits
        for row, values in zip(batch.rows, output.numpy(), strict=True):
            logits[row] = values
    predictions = predict_from_outputs(task, examples, features, {"logits": logits})
    assert score(task, examples, predictions) == {"accuracy": 778 / 872}
