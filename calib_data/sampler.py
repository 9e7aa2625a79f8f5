"""A small, fair and repeatable share of the training rows."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calib_data.features import Features
from calib_data.tasks import Examples, TextExample


@dataclass(frozen=True)
class CalibrationSet:
    """What activation ranges are measured on, and the proof of which rows those were.

    Attributes:
        features: The tokenized rows.
        seed: What the rows were drawn with.
        fingerprint: `fingerprint(features)`.
    """

    features: Features
    seed: int
    fingerprint: str


def sample_examples(examples: Examples, count: int, seed: int) -> Examples:
    """Draw a stratified sample: the first that `split_sample` draws.

    Args:
        examples: What to draw from.
        count: Examples wanted.
        seed: Of the random generator.

    Returns:
        `count` examples in their original order, or all where there are fewer.
    """
    return split_sample(examples, (count,), seed)[0]


def split_sample(examples: Examples, counts: tuple[int, ...], seed: int) -> tuple[Examples, ...]:
    """Draw samples that share no example, each spread over the strata of what is left.

    Class labels are the strata of a classification task: each has its share, to within one
    example. The numbers of a regression task are ordered, so each part of their range has its
    share. SQuAD's rows follow its articles and paragraphs, so an even spread over the file is a
    spread over those; two samples may hold different questions on one paragraph.

    A sample does not depend on the counts that follow it: asking for a second set of rows leaves
    the first as it was.

    Args:
        examples: What to draw from.
        counts: Examples wanted in each sample.
        seed: Of the random generator.

    Returns:
        One sample for each count, in their original order; shorter where the examples run out.
    """
    generator = np.random.default_rng(seed)
    left = _by_stratum(examples)
    samples = []
    for count in counts:
        size = min(count, len(left))
        # One example from each of `size` equal cells of the ordered rows: proportional allocation.
        edges = np.arange(size + 1) * len(left) // max(size, 1)
        picked = generator.integers(edges[:-1], edges[1:])
        samples.append(_take(examples, np.sort(left[picked])))
        left = np.delete(left, picked)
    return tuple(samples)


def fingerprint(features: Features) -> str:
    """Identify the rows that a calibrator saw.

    Returns:
        SHA-256, in hexadecimal, over each row's length and token ids (little-endian int64), in
        order.
    """
    digest = hashlib.sha256()
    for ids in features.input_ids:
        # Without the length, moving a token from one row to the next would go unseen.
        digest.update(len(ids).to_bytes(8, "little"))
        digest.update(ids.astype("<i8").tobytes())
    return digest.hexdigest()


def _by_stratum(examples: Examples) -> NDArray[np.intp]:
    labels = [example.label if isinstance(example, TextExample) else 0 for example in examples]
    return np.argsort(np.array(labels, dtype=np.float64), kind="stable")


def _take(examples: Examples, indices: NDArray[np.intp]) -> Examples:
    return tuple(examples[index] for index in indices)
