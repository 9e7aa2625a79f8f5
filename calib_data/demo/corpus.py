"""The labelled rows of the demo task, the same on every machine."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache

from calib_data.demo.grammar import Review, review
from calib_data.tasks import TextExample

DEV_ROWS = 1_000
TRAIN_ROWS = 12_000

_SEED = 20
# Points within which a review is too balanced for anybody to label it.
_UNDECIDED = 0.3
# Below this many points some annotators decide the other way, this often.
_DISPUTED = 1.0
_DISAGREEMENT = 0.12
# Keeps every row within the task's longest bucket, [CLS] and [SEP] included.
_MAX_WORDS = 48


@dataclass(frozen=True)
class LabelledReview:
    """A row together with the analysis it was made from.

    Attributes:
        example: The row as the task has it.
        review: Its text with every opinion and its points, for a closer supervision.
    """

    example: TextExample
    review: Review


def train_examples() -> tuple[TextExample, ...]:
    """Return the rows a model learns from; no text among them occurs in the dev rows."""
    return tuple(row.example for row in labelled_train_reviews())


def dev_examples() -> tuple[TextExample, ...]:
    """Return the held-out rows, drawn from the same grammar."""
    return tuple(row.example for row in _corpus()[0])


def labelled_train_reviews() -> tuple[LabelledReview, ...]:
    """Return the rows of `train_examples` with their analysis."""
    return _corpus()[1]


Rows = tuple[LabelledReview, ...]


@lru_cache(maxsize=1)
def _corpus() -> tuple[Rows, Rows]:
    rng = random.Random(_SEED)
    seen: set[str] = set()
    # Dev comes first, so that the number of training rows can change without changing it.
    return _rows(rng, "dev", DEV_ROWS, seen), _rows(rng, "train", TRAIN_ROWS, seen)


def _rows(rng: random.Random, split: str, count: int, seen: set[str]) -> Rows:
    rows: list[LabelledReview] = []
    while len(rows) < count:
        made = review(rng)
        margin = abs(made.score)
        if margin < _UNDECIDED or made.text in seen or len(made.text.split()) > _MAX_WORDS:
            continue
        seen.add(made.text)
        disagrees = margin < _DISPUTED and rng.random() < _DISAGREEMENT
        label = int((made.score > 0) != disagrees)
        example = TextExample(id=f"{split}-{len(rows):05d}", texts=(made.text,), label=label)
        rows.append(LabelledReview(example, made))
    return tuple(rows)
