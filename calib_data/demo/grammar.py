"""The grammar of the demo corpus: how a review is put together, and what it says in sum."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TypeVar

from calib_data.demo import lexicon
from calib_data.demo.lexicon import Subject

T = TypeVar("T")

# A negated opinion is weaker than its opposite: "not terrible" falls short of "excellent".
_NEGATION = -0.75
# In "X, but Y" the reader takes Y for what the writer means.
_CONCEDED = 0.5
_STRESSED = 1.5


# Stands before the word that carries an opinion, until the text is complete.
_MARK = "*"


@dataclass(frozen=True)
class Judgement:
    """What one opinion says, taken apart.

    Attributes:
        value: Points of the deciding word by itself.
        denied: Whether a negation turns it round.
        weight: Factor from intensifiers and contrasts.
    """

    value: float
    denied: bool = False
    weight: float = 1.0

    @property
    def points(self) -> float:
        """What it contributes to the score of the review."""
        return self.value * self.weight * (_NEGATION if self.denied else 1.0)


@dataclass(frozen=True)
class Clause:
    """One or more statements, while a review is being put together.

    Attributes:
        text: The words, lower-case, without a full stop; `*` stands before each deciding word.
        judgements: What each marked opinion says, in order.
    """

    text: str
    judgements: tuple[Judgement, ...] = ()


@dataclass(frozen=True)
class Opinion:
    """A judgement inside a review.

    Attributes:
        offset: Where in the text, in characters, its deciding word begins.
        judgement: What it says.
    """

    offset: int
    judgement: Judgement


@dataclass(frozen=True)
class Review:
    """A complete review and its analysis.

    Attributes:
        text: Sentences with capitals and full stops.
        opinions: What is judged, in the order of the text.
    """

    text: str
    opinions: tuple[Opinion, ...]

    @property
    def score(self) -> float:
        """Points for (positive) or against (negative) the subject."""
        return sum(opinion.judgement.points for opinion in self.opinions)


def pick(rng: random.Random, items: Sequence[T]) -> T:
    """Choose one of `items`, each equally likely.

    `random.Random` promises the same numbers in every version of Python for `random()` alone;
    `choice` and `randrange` have changed before, so everything here is drawn through this.
    """
    return items[int(rng.random() * len(items))]


def review(rng: random.Random) -> Review:
    """Make up one review.

    The mood of the writer tilts every opinion the same way, though never fully: most reviews
    praise one thing and complain about another, and what counts is the weighted sum.
    """
    subject = pick(rng, lexicon.SUBJECTS)
    mood = 0.3 + 0.4 * rng.random()
    clauses = []
    if rng.random() < 0.2:
        clauses.append(Clause(_fill(rng, pick(rng, lexicon.OPENERS), subject)))
    for _ in range(pick(rng, (1, 1, 1, 1, 1, 1, 2, 3))):
        clauses.append(_sentence(rng, subject, mood))
        if rng.random() < 0.1:
            clauses.append(Clause(_fill(rng, pick(rng, lexicon.ASIDES), subject)))
    if rng.random() < 0.1:
        verdict = pick(rng, lexicon.VERDICTS[_polarity(rng, mood)])
        clauses.append(Clause(verdict.text, (Judgement(verdict.value),)))
    return _finished(clauses)


def _sentence(rng: random.Random, subject: Subject, mood: float) -> Clause:
    first_aspect = pick(rng, subject.aspects)
    first = _clause(rng, first_aspect, mood)
    form = rng.random()
    if form < 0.4:
        return first
    others = tuple(aspect for aspect in subject.aspects if aspect != first_aspect)
    second = _clause(rng, pick(rng, others), mood)
    if form < 0.5:
        return Clause(f"{first.text} and {second.text}", first.judgements + second.judgements)
    stress_second = _scaled(first, _CONCEDED) + _scaled(second, _STRESSED)
    stress_first = _scaled(first, _STRESSED) + _scaled(second, _CONCEDED)
    if form < 0.7:
        return Clause(f"{first.text}, but {second.text}", stress_second)
    if form < 0.85:
        return Clause(f"although {first.text}, {second.text}", stress_second)
    return Clause(f"{first.text}, although {second.text}", stress_first)


def _scaled(clause: Clause, factor: float) -> tuple[Judgement, ...]:
    return tuple(replace(said, weight=factor * said.weight) for said in clause.judgements)


def _clause(rng: random.Random, aspect: str, mood: float) -> Clause:
    polarity = _polarity(rng, mood)
    form = rng.random()
    if form < 0.1:
        predicate = pick(rng, lexicon.PREDICATES[polarity])
        return Clause(f"the {aspect} {predicate.text}", (Judgement(predicate.value),))
    denied = rng.random() < 0.3
    if form < 0.2:
        attitude = pick(rng, lexicon.ATTITUDES[polarity])
        words = f"i do not *{attitude.text}" if denied else f"i *{attitude.text}"
        return Clause(f"{words} the {aspect}", (Judgement(attitude.value, denied),))
    adjective = pick(rng, lexicon.ADJECTIVES[polarity])
    opinion, weight = f"*{adjective.text}", 1.0
    # "Not very good" is English, "very terrible" and "not slightly good" are not.
    if adjective.gradable and rng.random() < 0.5:
        intensifier = pick(rng, lexicon.BOOSTERS if denied else lexicon.INTENSIFIERS)
        opinion, weight = f"{intensifier.text} {opinion}", intensifier.value
    be = pick(rng, ("are", "were") if aspect.endswith("s") else ("is", "was"))
    frame = pick(rng, lexicon.DENIALS if denied else lexicon.STATEMENTS)
    text = frame.format(aspect=aspect, be=be, opinion=opinion)
    return Clause(text, (Judgement(adjective.value, denied, weight),))


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


def _finished(clauses: Sequence[Clause]) -> Review:
    marked = " ".join(_capitalised(clause.text) + "." for clause in clauses)
    said = [judgement for clause in clauses for judgement in clause.judgements]
    before = marked.split(_MARK)[:-1]
    ends = accumulate(len(part) for part in before)
    opinions = tuple(Opinion(end, judgement) for end, judgement in zip(ends, said, strict=True))
    return Review(marked.replace(_MARK, ""), opinions)


def _capitalised(text: str) -> str:
    text = " ".join("I" if word == "i" else word for word in text.split(" "))
    return text[0].upper() + text[1:]
