"""The examples that a precision changes, as a report shows them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deploy.report.numbers import number


@dataclass(frozen=True)
class Changed:
    """What a precision changes.

    Attributes:
        precision: Which.
        total: All that changed.
        summary: What the shown ones mean for the score, in words.
        examples: As in results.json; see `deploy.evaluation.examples`.
    """

    precision: str
    total: int
    summary: str
    examples: tuple[Mapping[str, Any], ...]


def changed_examples(results: Mapping[str, Any]) -> tuple[Changed, ...]:
    """The changed examples of every precision that results.json knows them of."""
    return tuple(
        Changed(precision, entry["total"], _summary(entry), tuple(entry["examples"]))
        for precision, entry in results.get("changed_examples", {}).items()
    )


def answer(value: object) -> str:
    """An answer in words: a class, a number, a text, or several that are all right."""
    if isinstance(value, (list, tuple)):
        return " / ".join(map(answer, value))
    if isinstance(value, (int, float)):
        return number(value)
    return str(value) or "(no answer)"


def _summary(entry: Mapping[str, Any]) -> str:
    shown = entry["examples"]
    counts = Counter(example["outcome"] for example in shown)
    parts = [f"{counts[name]} {name}" for name in ("lost", "gained", "neither") if counts[name]]
    words = ", ".join(parts)
    if len(shown) < entry["total"]:
        return f"the first {len(shown)} are here: {words}" if shown else "none is kept here"
    return words
