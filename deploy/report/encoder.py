"""Names of an encoder's modules, and numbers of its layers, as people read them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby

# The number of an encoder layer, and what stands before it.
ENCODER_LAYER = re.compile(r"^.*?\blayer\.(\d+)\.")


def split_layer(name: str) -> tuple[int | None, str]:
    """The encoder layer that a module or tensor belongs to, and its name within the layer.

    Returns:
        None and the whole name where it stands outside of the encoder's layers.
    """
    found = ENCODER_LAYER.match(name)
    return (int(found[1]), name[found.end() :]) if found else (None, name)


def index_ranges(indexes: Sequence[int]) -> str:
    """Ascending numbers, runs of them shortened: "0-3, 7"."""
    runs = groupby(enumerate(indexes), key=lambda pair: pair[1] - pair[0])
    lists = [[index for _, index in run] for _, run in runs]
    return ", ".join(index_range(run[0], run[-1]) for run in lists)


def index_range(low: int, high: int) -> str:
    """Two numbers as a range, one where they are the same."""
    return str(low) if low == high else f"{low}-{high}"
