"""Class names as checkpoints and data sets write them, tied to those of a task."""

from __future__ import annotations

import re
from collections.abc import Sequence

# What `transformers` calls labels that nobody named, and what others call them.
_PLACEHOLDER = re.compile(r"(label|class)?[_ ]?\d+", re.IGNORECASE)

_WORD_START = re.compile(r"(?<=[a-z])(?=[A-Z])")
_SEPARATORS = re.compile(r"[\s_-]+")
_NEGATION = re.compile(r"(not|non|no)_")

_SYNONYMS = {
    "contradict": "contradiction",
    "contradicts": "contradiction",
    "contradictory": "contradiction",
    "duplicates": "duplicate",
    "is_duplicate": "duplicate",
    "entail": "entailment",
    "entailed": "entailment",
    "entails": "entailment",
    "grammatical": "acceptable",
    "is_paraphrase": "equivalent",
    "neg": "negative",
    "paraphrase": "equivalent",
    "pos": "positive",
    "unacceptable": "not_acceptable",
    "ungrammatical": "not_acceptable",
}


def are_placeholders(names: Sequence[str]) -> bool:
    """Whether names only number the labels, as `LABEL_0` does, and so say nothing about them."""
    return all(_PLACEHOLDER.fullmatch(name.strip()) for name in names)


def match_labels(names: Sequence[str], labels: Sequence[str]) -> tuple[int, ...] | None:
    """Find a task's labels among names that someone else gave them.

    Case and separators do not count, and well-known synonyms are the same name: "CONTRADICTION",
    "Not Equivalent", "pos".

    Args:
        names: The other names, in the other's order.
        labels: The task's labels.

    Returns:
        For each label where it stands in `names`; None where they are not the same labels.
    """
    for spelling in (str.casefold, canonical):  # labels that only synonyms confuse stay apart
        found, wanted = [spelling(name) for name in names], [spelling(name) for name in labels]
        if sorted(found) == sorted(wanted) and len(set(wanted)) == len(wanted):
            return tuple(found.index(name) for name in wanted)
    return None


def canonical(name: str) -> str:
    """One spelling for all the ways of writing a label's name."""
    text = _SEPARATORS.sub("_", _WORD_START.sub("_", name.strip()).casefold())
    negation = _NEGATION.match(text)
    if negation:
        stem = text[negation.end() :]
        return f"not_{_SYNONYMS.get(stem, stem)}"
    return _SYNONYMS.get(text, text)
