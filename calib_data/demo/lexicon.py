"""The words of the demo corpus and what each of them is worth.

Points: 1 is mild, 2 clear, 3 strong; negative ones speak against the thing reviewed.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Subject:
    """Something that gets reviewed.

    Attributes:
        name: What it is called, without an article.
        aspects: Parts of it that an opinion can be about, all of them singular.
    """

    name: str
    aspects: tuple[str, ...]


SUBJECTS: tuple[Subject, ...] = (
    Subject("laptop", ("screen", "keyboard", "battery", "touchpad", "hinge", "price")),
    Subject("hotel", ("room", "breakfast", "bathroom", "location", "lobby", "price")),
    Subject("restaurant", ("food", "service", "menu", "wine list", "music", "bill")),
    Subject("headset", ("sound", "volume", "battery", "cable", "microphone", "fit")),
    Subject("phone plan", ("coverage", "support", "app", "contract", "speed", "price")),
    Subject("coffee machine", ("coffee", "grinder", "water tank", "noise", "design", "manual")),
)

# Points of an adjective, by how it speaks: +1 for, -1 against.
ADJECTIVES: dict[int, dict[str, float]] = {
    +1: {
        "fine": 1, "decent": 1, "okay": 1, "acceptable": 1,
        "good": 2, "nice": 2, "pleasant": 2, "reliable": 2,
        "excellent": 3, "fantastic": 3, "perfect": 3, "wonderful": 3,
    },
    -1: {
        "mediocre": -1, "plain": -1, "dated": -1, "forgettable": -1,
        "bad": -2, "poor": -2, "annoying": -2, "disappointing": -2,
        "terrible": -3, "awful": -3, "horrible": -3, "useless": -3,
    },
}  # fmt: skip

# Factors on the points of the adjective that follows.
INTENSIFIERS: dict[str, float] = {"slightly": 0.5, "somewhat": 0.5, "very": 1.5, "extremely": 1.5}

VERDICTS: dict[int, dict[str, float]] = {
    +1: {"i would buy it again": 2, "i recommend it": 2, "i love it": 3},
    -1: {"i have my doubts": -1, "i sent it back": -2, "i hate it": -3},
}

STATEMENTS: tuple[str, ...] = (
    "the {aspect} is {opinion}",
    "the {aspect} was {opinion}",
    "i found the {aspect} {opinion}",
    "{opinion} {aspect}",
)

DENIALS: tuple[str, ...] = ("the {aspect} is not {opinion}", "the {aspect} was not {opinion}")

# Sentences that say nothing about the subject's worth.
ASIDES: tuple[str, ...] = (
    "my {person} picked this {subject} for me in {month}",
    "we tried the {code} {subject} for {number} days",
    "i paid {number} dollars for this {subject} and waited until {month}",
    "it was raining on the day when the {subject} came",
    "my {person} has the same one from {month}, order number {number}",
)

MONTHS: tuple[str, ...] = ("january", "march", "april", "june", "august", "october", "december")
PERSONS: tuple[str, ...] = ("sister", "brother", "neighbour", "boss", "mother", "husband", "wife")
