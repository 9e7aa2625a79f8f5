"""What every contestant is fed: random token ids that the vocabulary has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.engine.profiles import Shape
from deploy.errors import BuildFolderError

# Taken in turn, so that no call finds its own input in a cache.
_SETS = 4


def token_sets(
    shape: Shape, vocabulary: int, seed: int
) -> tuple[dict[str, NDArray[np.int64]], ...]:
    """Inputs of one shape, without padding.

    Args:
        shape: Batch and sequence.
        vocabulary: Number of token ids.
        seed: Same seed and shape, same tokens.

    Returns:
        Sets of `input_ids`, `attention_mask` (ones) and `token_type_ids` (zeros), each int64
        [batch, sequence].
    """
    random = np.random.default_rng((seed, shape.batch, shape.sequence))
    size = (shape.batch, shape.sequence)
    return tuple(
        {
            "input_ids": random.integers(0, vocabulary, size, dtype=np.int64),
            "attention_mask": np.ones(size, dtype=np.int64),
            "token_type_ids": np.zeros(size, dtype=np.int64),
        }
        for _ in range(_SETS)
    )


def vocabulary_size(tokenizer: Path) -> int:
    """Number of token ids of a saved tokenizer; a build has checked that the model has them all.

    Raises:
        BuildFolderError: Its tokenizer.json is missing or damaged.
    """
    from tokenizers import Tokenizer

    file = tokenizer / "tokenizer.json"
    try:
        loaded: Any = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises nothing more specific
        raise BuildFolderError(f"cannot read '{file}': {error}", "build it again") from error
    return int(loaded.get_vocab_size())
