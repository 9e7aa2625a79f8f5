"""A small, fair and repeatable share of the training rows."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from calib_data.features import Features
from calib_data.tasks import Examples, TextExample

_NO_OFFSETS = np.empty((0, 2), dtype=np.int32)


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
    """Identify tokenized rows: what a model is fed, and for SQuAD where in the text it stands.

    Returns:
        SHA-256, in hexadecimal, over the rows in order: of each its length, token ids, segment ids
        and SQuAD's offsets (all little-endian int64).
    """
    digest = hashlib.sha256()
    offsets = features.offsets or (_NO_OFFSETS,) * len(features.input_ids)
    for parts in zip(features.input_ids, features.token_type_ids, offsets, strict=True):
        # Without the length, moving a token from one row to the next would go unseen.
        digest.update(len(parts[0]).to_bytes(8, "little"))
        for part in parts:
            digest.update(part.astype("<i8").tobytes())
    return digest.hexdigest()


def fingerprint_examples(examples: Examples) -> str:
    """Identify examples, labels included, before any tokenizer has seen them.

    Returns:
        SHA-256, in hexadecimal, over all fields of each example, in order.
    """
    digest = hashlib.sha256()
    for example in examples:
        digest.update(json.dumps(asdict(example), sort_keys=True).encode("utf-8"))
    return digest.hexdigest()


def _by_stratum(examples: Examples) -> NDArray[np.intp]:
    labels = [example.label if isinstance(example, TextExample) else 0 for example in examples]
    return np.argsort(np.array(labels, dtype=np.float64), kind="stable")


def _take(examples: Examples, indices: NDArray[np.intp]) -> Examples:
    return tuple(examples[index] for index in indices)
