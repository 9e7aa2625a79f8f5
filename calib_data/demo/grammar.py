"""The grammar of the demo corpus: how a review is put together, and what it says in sum."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from calib_data.demo import lexicon
from calib_data.demo.lexicon import Subject

T = TypeVar("T")

# A negated opinion is weaker than its opposite: "not terrible" falls short of "excellent".
_NEGATION = -0.5
# In "X, but Y" the reader takes Y for what the writer means.
_CONCEDED = 0.75
_STRESSED = 1.25


@dataclass(frozen=True)
class Review:
    """A text, or a part of one, and what it says.

    Attributes:
        text: The words.
        score: Points for (positive) or against (negative) the subject.
    """

    text: str
    score: float = 0.0


def pick(rng: random.Random, items: Sequence[T]) -> T:
    """Choose one of `items`, each equally likely.

    `random.Random` promises the same numbers in every version of Python for `random()` alone, so
    everything here is drawn through it.
    """
    return items[int(rng.random() * len(items))]


def review(rng: random.Random) -> Review:
    """Make up one review.

    The mood of the writer tilts every opinion the same way, though never fully: many reviews
    praise one thing and complain about another, and what counts is the weighted sum.
    """
    subject = pick(rng, lexicon.SUBJECTS)
    mood = pick(rng, (0.15, 0.85))
    parts = [_sentence(rng, subject, mood)]
    if rng.random() < 0.12:
        parts.append(_sentence(rng, subject, mood))
    if rng.random() < 0.15:
        verdict = pick(rng, tuple(lexicon.VERDICTS[_polarity(rng, mood)].items()))
        parts.append(Review(*verdict))
    for _ in range(pick(rng, (0,) * 11 + (2,))):
        aside = Review(_fill(rng, pick(rng, lexicon.ASIDES), subject))
        parts.insert(int(rng.random() * (len(parts) + 1)), aside)
    text = " ".join(part.text[0].upper() + part.text[1:] + "." for part in parts)
    return Review(text.replace(" i ", " I "), sum(part.score for part in parts))


def _sentence(rng: random.Random, subject: Subject, mood: float) -> Review:
    aspect = pick(rng, subject.aspects)
    first = _clause(rng, aspect, mood)
    form = rng.random()
    if form < 0.55:
        return first
    others = tuple(other for other in subject.aspects if other != aspect)
    second = _clause(rng, pick(rng, others), mood)
    if form < 0.8:
        return Review(f"{first.text} and {second.text}", first.score + second.score)
    score = _CONCEDED * first.score + _STRESSED * second.score
    return Review(f"{first.text}, but {second.text}", score)


def _clause(rng: random.Random, aspect: str, mood: float) -> Review:
    adjectives = tuple(lexicon.ADJECTIVES[_polarity(rng, mood)].items())
    opinion, points = pick(rng, adjectives)
    if rng.random() < 0.08:
        frame = pick(rng, lexicon.DENIALS)
        return Review(frame.format(aspect=aspect, opinion=opinion), _NEGATION * points)
    if rng.random() < 0.3:
        intensifier, factor = pick(rng, tuple(lexicon.INTENSIFIERS.items()))
        opinion, points = f"{intensifier} {opinion}", factor * points
    frame = pick(rng, lexicon.STATEMENTS)
    return Review(frame.format(aspect=aspect, opinion=opinion), points)


def _polarity(rng: random.Random, mood: float) -> int:
    return 1 if rng.random() < mood else -1


def _fill(rng: random.Random, frame: str, subject: Subject) -> str:
    return frame.format(
        subject=subject.name,
        month=pick(rng, lexicon.MONTHS),
        person=pick(rng, lexicon.PERSONS),
        number=int(2 + 98 * rng.random()),
        code=f"{pick(rng, 'bdgkmrtx')}{pick(rng, 'aeiou')}{int(100 + 900 * rng.random())}",
    )
