import time
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from calib_data.tasks import TASKS, QuestionExample, TextExample
from deploy.errors import EvaluationError
from deploy.evaluation.compare import compare
from deploy.evaluation.predictions import AnswerPredictions, ClassPredictions, ValuePredictions

MRPC, STSB = TASKS["mrpc"], TASKS["stsb"]


def predictions(ids):
    return ClassPredictions(np.eye(2, dtype=np.float32)[ids])


def flipped(generator, ids, share):
    return np.where(generator.random(len(ids)) < share, 1 - ids, ids)


def case(count, seed=0, reference_errors=0.1, changes=0.05):
    """Random labels, a reference that misses some, and a candidate that differs from it in some."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, size=count)
    reference = flipped(generator, labels, reference_errors)
    candidate = flipped(generator, reference, changes)
    examples = tuple(TextExample(str(i), ("x", "y"), int(c)) for i, c in enumerate(labels))
    return examples, labels, reference, candidate


def test_a_model_loses_nothing_against_itself():
    examples, _, reference, _ = case(200)
    result = compare(MRPC, examples, predictions(reference), predictions(reference))
    assert (result.agreement, result.changed) == (1.0, 0)
    for drop in result.metric.values():
        assert (drop.drop, drop.relative_drop, drop.ci95) == (0.0, 0.0, (0.0, 0.0))


def test_drops_are_reference_minus_candidate():
    examples, labels, reference, candidate = case(300)
    result = compare(MRPC, examples, predictions(reference), predictions(candidate))
    for name, function in (
        ("accuracy", sklearn.metrics.accuracy_score),
        ("f1", sklearn.metrics.f1_score),
    ):
        before, after = function(labels, reference), function(labels, candidate)
        assert before > after
        assert result.metric[name].drop == pytest.approx(before - after)
        assert result.metric[name].relative_drop == pytest.approx((before - after) / before)
    assert result.changed == np.count_nonzero(reference != candidate) > 0
    assert result.agreement == pytest.approx(1 - result.changed / 300)


def test_a_better_candidate_drops_below_zero():
    examples, labels, reference, _ = case(300)
    drop = compare(MRPC, examples, predictions(reference), predictions(labels)).metric["accuracy"]
    assert drop.ci95[0] < drop.drop < drop.ci95[1] < 0


def test_agreement_counts_equal_predictions_even_where_both_are_wrong():
    examples = tuple(TextExample(str(i), ("x", "y"), 1) for i in range(4))
    result = compare(MRPC, examples, predictions([0, 0, 0, 1]), predictions([0, 0, 1, 1]))
    assert (result.agreement, result.changed) == (0.75, 1)


def test_interval_is_that_of_resampling_row_by_row():
    examples, labels, reference, candidate = case(1600)
    result = compare(MRPC, examples, predictions(reference), predictions(candidate))

    generator = np.random.default_rng(99)
    drops = {"accuracy": [], "f1": []}
    for _ in range(4000):
        drawn = generator.integers(0, 1600, size=1600)
        truth, before, after = labels[drawn], reference[drawn], candidate[drawn]
        drops["accuracy"].append((before == truth).mean() - (after == truth).mean())
        hits = [2 * (side & truth).sum() / (side.sum() + truth.sum()) for side in (before, after)]
        drops["f1"].append(hits[0] - hits[1])
    for name, values in drops.items():
        low, high = np.quantile(values, [0.025, 0.975])
        # The ends wander by 2 % of the width; those of a 90 % interval would lie 8 % further in.
        assert result.metric[name].ci95 == pytest.approx((low, high), abs=0.05 * (high - low))


def test_what_is_hard_for_both_does_not_widen_the_interval():
    examples, labels, reference, candidate = case(2000, reference_errors=0.4, changes=0.01)
    drop = compare(MRPC, examples, predictions(reference), predictions(candidate))
    low, high = drop.metric["accuracy"].ci95
    spreads = [np.var(side == labels) / 2000 for side in (reference, candidate)]
    assert high - low < 0.3 * 2 * 1.96 * np.sqrt(sum(spreads))


def test_seed_decides_the_interval():
    examples, _, reference, candidate = case(200)
    sides = predictions(reference), predictions(candidate)
    assert compare(MRPC, examples, *sides, seed=1) == compare(MRPC, examples, *sides, seed=1)
    assert compare(MRPC, examples, *sides, seed=1) != compare(MRPC, examples, *sides, seed=2)


def test_answers_agree_when_only_case_and_articles_differ():
    examples = tuple(QuestionExample(str(i), "?", "", ("red car",), (0,)) for i in range(3))
    reference = AnswerPredictions(("red car", "red car", "red car"))
    candidate = AnswerPredictions(("The Red car", "red", "blue"))
    result = compare(TASKS["squad"], examples, reference, candidate)
    assert (result.agreement, result.changed) == (pytest.approx(1 / 3), 2)
    assert result.metric["exact_match"].drop == pytest.approx(2 / 3)
    assert result.metric["f1"].drop == pytest.approx(1 - (1 + 2 / 3) / 3)
    assert list(result.metric) == ["f1", "exact_match"]


def numbers(count, seed=0):
    """Scores from 0 to 5, a reference, and a candidate that follows it less well."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 26, size=count) / 5
    reference = labels + generator.normal(scale=0.7, size=count)
    candidate = reference + generator.normal(scale=0.4, size=count)
    examples = tuple(TextExample(str(i), ("x", "y"), float(c)) for i, c in enumerate(labels))
    sides = [ValuePredictions(side.astype(np.float32)) for side in (reference, candidate)]
    return examples, labels, *sides


def test_numbers_agree_within_a_twentieth_of_the_labels_span():
    examples = tuple(
        TextExample(str(i), ("x", "y"), label) for i, label in enumerate((0.0, 5.0, 1))
    )
    reference = ValuePredictions(np.array([1, 2, 3], dtype=np.float32))
    candidate = ValuePredictions(np.array([1.25, 1.75, 3.26], dtype=np.float32))
    result = compare(STSB, examples, reference, candidate)
    assert (result.agreement, result.changed) == (pytest.approx(2 / 3), 1)


def test_interval_of_correlations_is_that_of_resampling_row_by_row():
    examples, labels, reference, candidate = numbers(400)
    result = compare(STSB, examples, reference, candidate)
    assert list(result.metric) == ["pearson", "spearman"]
    generator = np.random.default_rng(99)
    drops = {"pearson": [], "spearman": []}
    for _ in range(3000):
        drawn = generator.integers(0, 400, size=400)
        for name, function in (
            ("pearson", scipy.stats.pearsonr),
            ("spearman", scipy.stats.spearmanr),
        ):
            before, after = (
                function(labels[drawn], side.values[drawn].astype(np.float64)).statistic
                for side in (reference, candidate)
            )
            drops[name].append(before - after)
    for name, values in drops.items():
        low, high = np.quantile(values, [0.025, 0.975])
        # As for accuracy above, with fewer resamples: the ends wander by 3 % of the width.
        assert result.metric[name].ci95 == pytest.approx((low, high), abs=0.08 * (high - low))
        assert low < result.metric[name].drop < high


def test_a_regression_loses_nothing_against_itself():
    examples, _, reference, _ = numbers(100)
    result = compare(STSB, examples, reference, reference)
    assert (result.agreement, result.changed) == (1.0, 0)
    for drop in result.metric.values():
        assert (drop.drop, drop.relative_drop, drop.ci95) == (0.0, 0.0, (0.0, 0.0))


def test_a_loss_from_a_negative_correlation_is_a_loss():
    examples, labels, _, _ = numbers(50)
    reference = ValuePredictions((np.abs(labels - 2.5) - labels).astype(np.float32))
    candidate = ValuePredictions((-labels).astype(np.float32))
    drop = compare(STSB, examples, reference, candidate).metric["pearson"]
    assert drop.drop > 0
    assert drop.relative_drop > 0


def test_zero_reference_has_no_relative_drop():
    examples = tuple(TextExample(str(i), ("x",), 1) for i in range(4))
    drop = compare(TASKS["sst2"], examples, predictions([0] * 4), predictions([0, 1, 0, 1]))
    assert drop.metric["accuracy"].drop == -0.5
    assert drop.metric["accuracy"].relative_drop == 0.0


def test_different_numbers_of_predictions_are_refused():
    examples, _, reference, candidate = case(20)
    with pytest.raises(EvaluationError, match=r"20 examples.*19"):
        compare(MRPC, examples, predictions(reference), predictions(candidate[:-1]))


def test_large_sets_stay_fast():
    examples, _, reference, candidate = case(40_000)
    task = replace(MRPC, metrics=("accuracy",))
    started = time.process_time()
    compare(task, examples, predictions(reference), predictions(candidate))
    assert time.process_time() - started < 2.0
