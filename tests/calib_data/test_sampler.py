from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from calib_data.features import Features
from calib_data.sampler import fingerprint, sample_examples, split_sample
from calib_data.tasks import QuestionExample, TextExample


def labelled(zeros, ones):
    labels = np.random.default_rng(1).permutation([0] * zeros + [1] * ones)
    return tuple(TextExample(str(i), (f"t{i}",), int(label)) for i, label in enumerate(labels))


def ids(examples):
    return [example.id for example in examples]


@pytest.mark.parametrize("seed", range(5))
def test_labels_keep_their_shares(seed):
    sample = sample_examples(labelled(700, 300), 100, seed)
    assert len(set(ids(sample))) == 100
    assert abs(Counter(e.label for e in sample)[1] - 30) <= 1


def test_questions_spread_over_the_contexts():
    examples = tuple(
        QuestionExample(f"{c}-{q}", "?", f"context {c}", ("c",), (0,))
        for c in range(20)
        for q in range(30)
    )
    sample = sample_examples(examples, 20, seed=3)
    assert len({e.context for e in sample}) == 20


def test_seed_decides_the_sample():
    examples = labelled(50, 50)
    assert ids(sample_examples(examples, 10, 1)) == ids(sample_examples(examples, 10, 1))
    assert ids(sample_examples(examples, 10, 1)) != ids(sample_examples(examples, 10, 2))


def test_every_row_can_be_drawn():
    examples = labelled(6, 4)
    drawn = {i for seed in range(60) for i in ids(sample_examples(examples, 3, seed))}
    assert drawn == set(ids(examples))


def test_samples_share_nothing_and_each_is_stratified():
    parts = split_sample(labelled(600, 400), (100, 200, 50), seed=0)
    assert [len(part) for part in parts] == [100, 200, 50]
    assert len({i for part in parts for i in ids(part)}) == 350
    for part, ones in zip(parts, (40, 80, 20), strict=True):
        assert abs(Counter(e.label for e in part)[1] - ones) <= 2


def test_asking_for_a_second_sample_leaves_the_first_alone():
    examples = labelled(50, 50)
    assert split_sample(examples, (20, 30), 7)[0] == sample_examples(examples, 20, 7)


def test_too_few_rows_give_all_of_them_in_order():
    examples = labelled(5, 5)
    assert sample_examples(examples, 99, 0) == examples
    assert [len(p) for p in split_sample(examples, (8, 8, 8), 0)] == [8, 2, 0]


def features_of(*rows):
    arrays = tuple(np.array(row, dtype=np.int64) for row in rows)
    zeros = tuple(np.zeros_like(array) for array in arrays)
    return Features(arrays, zeros, np.arange(len(rows)), ())


def test_fingerprint_sees_ids_order_and_row_ends():
    base = fingerprint(features_of([1, 2], [3]))
    assert base == fingerprint(features_of([1, 2], [3]))
    others = [
        features_of([1, 2], [4]),
        features_of([3], [1, 2]),
        features_of([1], [2, 3]),
        features_of([1, 2, 3]),
        features_of([1, 2]),
    ]
    assert len({base, *map(fingerprint, others)}) == 6


def test_fingerprint_sees_segments_and_offsets():
    rows = features_of([1, 2], [3])
    segments = (np.array([0, 1]), np.array([0]))
    spans = tuple(np.zeros((len(row), 2), dtype=np.int32) for row in rows.input_ids)
    others = [
        rows,
        replace(rows, token_type_ids=segments),
        replace(rows, offsets=spans),
        replace(rows, offsets=(spans[0] + 1, spans[1])),
    ]
    assert len(set(map(fingerprint, others))) == 4


def test_numbers_of_a_regression_are_spread_over_their_range():
    values = np.random.default_rng(1).permutation(np.linspace(0, 5, 400))
    rows = tuple(TextExample(str(i), ("t",), float(value)) for i, value in enumerate(values))
    sample = [example.label for example in sample_examples(rows, 40, seed=0)]
    assert Counter(int(label) for label in sample).keys() == {0, 1, 2, 3, 4}
    counts = np.histogram(sample, bins=10, range=(0, 5))[0]
    assert counts.min() >= 3
    assert counts.max() <= 5
