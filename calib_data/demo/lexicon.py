"""The words of the demo corpus and what each of them is worth.

Strengths are in points: 1 is mild, 2 clear, 3 strong; negative ones speak against the product.
Factors multiply the strength of the opinion they stand before.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Weighted:
    """A word or phrase and its worth.

    Attributes:
        text: The phrase, lower-case; in a phrase of several words `*` marks the deciding one.
        value: Points of an opinion, or the factor of an intensifier.
    """

    text: str
    value: float

    @property
    def gradable(self) -> bool:
        """Whether an adjective goes with "very": only the clear ones of 2 points do."""
        return abs(self.value) == 2.0


@dataclass(frozen=True)
class Subject:
    """Something that gets reviewed.

    Attributes:
        name: What it is called, without an article.
        aspects: Parts of it that an opinion can be about; a trailing `s` makes one plural.
    """

    name: str
    aspects: tuple[str, ...]


def _weighted(value: float, phrases: str) -> tuple[Weighted, ...]:
    return tuple(Weighted(phrase.strip(), value) for phrase in phrases.split(","))


SUBJECTS: tuple[Subject, ...] = (
    Subject(
        "laptop",
        ("screen", "keyboard", "battery", "touchpad", "speakers", "hinge", "webcam", "price"),
    ),
    Subject(
        "hotel",
        ("room", "breakfast", "bathroom", "location", "staff", "beds", "lobby", "price"),
    ),
    Subject(
        "restaurant",
        ("food", "service", "menu", "portions", "wine list", "music", "waiters", "bill"),
    ),
    Subject(
        "pair of headphones",
        ("sound", "volume", "battery", "ear cups", "cable", "microphone", "fit", "price"),
    ),
    Subject(
        "phone plan",
        ("coverage", "support", "app", "contract", "speed", "fees", "website", "price"),
    ),
    Subject(
        "coffee machine",
        ("coffee", "grinder", "water tank", "buttons", "noise level", "design", "manual", "price"),
    ),
)

ADJECTIVES: dict[int, tuple[Weighted, ...]] = {
    +1: (
        *_weighted(1.0, "fine, decent, okay, acceptable"),
        *_weighted(2.0, "good, nice, pleasant, reliable"),
        *_weighted(3.0, "excellent, fantastic, perfect, wonderful"),
    ),
    -1: (
        *_weighted(-1.0, "mediocre, plain, dated, forgettable"),
        *_weighted(-2.0, "bad, poor, annoying, disappointing"),
        *_weighted(-3.0, "terrible, awful, horrible, useless"),
    ),
}

BOOSTERS: tuple[Weighted, ...] = _weighted(1.5, "very, really, extremely")

INTENSIFIERS: tuple[Weighted, ...] = (*_weighted(0.5, "slightly, somewhat, a bit"), *BOOSTERS)

PREDICATES: dict[int, tuple[Weighted, ...]] = {
    +1: (
        Weighted("did the *job", 1.0),
        Weighted("never let me *down", 2.0),
        Weighted("*exceeded my expectations", 2.0),
        Weighted("*blew me away", 3.0),
    ),
    -1: (
        Weighted("*took some getting used to", -1.0),
        Weighted("left a lot to be *desired", -2.0),
        Weighted("never *met my expectations", -2.0),
        Weighted("drove me *mad", -3.0),
    ),
}

ATTITUDES: dict[int, tuple[Weighted, ...]] = {
    +1: (Weighted("accept", 1.0), Weighted("like", 2.0), Weighted("love", 3.0)),
    -1: (Weighted("question", -1.0), Weighted("dislike", -2.0), Weighted("hate", -3.0)),
}

DENIALS: tuple[str, ...] = (
    "i would not call the {aspect} {opinion}",
    "i do not think the {aspect} {be} {opinion}",
    "the {aspect} {be} not {opinion}",
    "the {aspect} {be} certainly not {opinion}",
)

STATEMENTS: tuple[str, ...] = (
    "the {aspect} {be} {opinion}",
    "the {aspect} {be} {opinion}",
    "i found the {aspect} {opinion}",
    "i would call the {aspect} {opinion}",
    "i think the {aspect} {be} {opinion}",
    "everybody says the {aspect} {be} {opinion}",
)

OPENERS: tuple[str, ...] = (
    "i got this {subject} in {month}",
    "this was my first {subject} from this company",
    "my {person} picked this {subject} for me",
    "we tried the {code} {subject} for {number} days",
    "i paid {number} dollars for this {subject}",
    "this is about the {subject} they sell as {code}",
)

ASIDES: tuple[str, ...] = (
    "my {person} came along in {month}",
    "we had {number} days to make up our minds",
    "i have written to them once or twice",
    "it was raining that day",
    "the order number ended in {number}",
    "my {person} has the same one",
)

VERDICTS: dict[int, tuple[Weighted, ...]] = {
    +1: (
        Weighted("all in all i can *live with it", 1.0),
        Weighted("overall i would *recommend it", 2.0),
        Weighted("overall i could not be *happier", 3.0),
    ),
    -1: (
        Weighted("all in all i have my *doubts", -1.0),
        Weighted("overall i would not *recommend it", -2.0),
        Weighted("overall i could not be more *disappointed", -3.0),
    ),
}

MONTHS: tuple[str, ...] = ("january", "march", "april", "june", "august", "october", "december")
PERSONS: tuple[str, ...] = ("sister", "brother", "neighbour", "boss", "mother", "husband", "wife")
