"""The labelled rows of the demo task, the same on every machine."""

from __future__ import annotations

import random
from functools import lru_cache

from calib_data.demo.grammar import review
from calib_data.tasks import TextExample

DEV_ROWS = 1_000
TRAIN_ROWS = 10_000

_SEED = 20
# Points within which a review is too balanced for anybody to label it.
_UNDECIDED = 0.5
# Below this many points some annotators decide the other way, this often.
_DISPUTED = 1.0
_DISAGREEMENT = 0.1
# Keeps every row within the task's longest bucket, [CLS] and [SEP] included.
_MAX_WORDS = 40

Rows = tuple[TextExample, ...]


def train_examples() -> Rows:
    """Return the rows a model learns from; no text among them occurs in the dev rows."""
    return _corpus()[1]


def dev_examples() -> Rows:
    """Return the held-out rows, drawn from the same grammar."""
    return _corpus()[0]


@lru_cache(maxsize=1)
def _corpus() -> tuple[Rows, Rows]:
    rng = random.Random(_SEED)
    seen: set[str] = set()
    # Dev comes first, so that the number of training rows can change without changing it.
    return _rows(rng, "dev", DEV_ROWS, seen), _rows(rng, "train", TRAIN_ROWS, seen)


def _rows(rng: random.Random, split: str, count: int, seen: set[str]) -> Rows:
    rows: list[TextExample] = []
    while len(rows) < count:
        made = review(rng)
        margin = abs(made.score)
        if margin < _UNDECIDED or made.text in seen or len(made.text.split()) > _MAX_WORDS:
            continue
        seen.add(made.text)
        disagrees = margin < _DISPUTED and rng.random() < _DISAGREEMENT
        label = int((made.score > 0) != disagrees)
        rows.append(TextExample(f"{split}-{len(rows):05d}", (made.text,), label))
    return tuple(rows)
