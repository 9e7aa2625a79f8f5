"""The WordPiece vocabulary of the demo model."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable

SPECIAL_TOKENS: tuple[str, ...] = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

# A word rarer than this is spelled out in pieces, as a real vocabulary would have it.
_MIN_COUNT = 5
_PUNCTUATION = ".,!?'-:;()$%"
_SUFFIXES = ("s", "ed", "ing", "ly", "er", "est", "ness")


def build_vocabulary(texts: Iterable[str]) -> tuple[str, ...]:
    """Choose the vocabulary for `texts`.

    The trainer of the `tokenizers` library breaks ties by the order of a hash map, so two runs
    may number the pieces differently. Here the order follows from the texts alone.

    Returns:
        Pieces in the order of their ids, special tokens first. Every lower-case letter and digit
        is there, alone and as a continuation, so that no English word is unknown.
    """
    counts = Counter(word for text in texts for word in re.findall(r"[a-z]+", text.lower()))
    symbols = string.ascii_lowercase + string.digits
    pieces = [*SPECIAL_TOKENS, *_PUNCTUATION, *symbols]
    pieces += [f"##{piece}" for piece in (*symbols, *_SUFFIXES)]
    frequent = [word for word, count in counts.items() if count >= _MIN_COUNT]
    pieces += sorted(frequent, key=lambda word: (-counts[word], word))
    return tuple(dict.fromkeys(pieces))
