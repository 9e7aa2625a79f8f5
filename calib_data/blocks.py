"""Examples tokenized in the background, block by block, while a model runs on earlier blocks."""

from __future__ import annotations

import copy
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from calib_data.feature_cache import FeatureCache
from calib_data.features import Features
from calib_data.tasks import Examples, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Examples in a block. Rows are sorted by length within one, so it must be many batches; and a
# model can start as soon as the first is there, so it must not take many seconds.
_BLOCK = 4096

Blocks = tuple[Future[Features], ...]
"""The rows of consecutive examples, one future a block. `example_index` counts over all blocks."""


def tokenize_blocks(
    task: Task, tokenizer: PreTrainedTokenizerBase, examples: Examples, max_length: int
) -> Blocks:
    """Start to tokenize, or to read from the cache; see `tokenize` for what comes out.

    Blocks depend on the examples alone, not on what is cached or on how fast anything is.

    Args:
        task: The task the examples belong to.
        tokenizer: The model's fast tokenizer; it may be used elsewhere meanwhile.
        examples: What to tokenize, at least one.
        max_length: Tokens at most in a row.

    Returns:
        At least one block. Its future raises what `tokenize` raises.
    """
    # A fast tokenizer keeps truncation as state, which another thread's call would change.
    cache = FeatureCache(task, copy.deepcopy(tokenizer), max_length)
    starts = range(0, len(examples), _BLOCK)
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tokenize")
    blocks = tuple(pool.submit(_block, cache, examples, start) for start in starts)
    pool.shutdown(wait=False)
    return blocks


def as_blocks(features: Features) -> Blocks:
    """Rows that are there already, as one block."""
    block: Future[Features] = Future()
    block.set_result(features)
    return (block,)


def join_blocks(blocks: Blocks) -> Features:
    """All rows, once the last block is there.

    Raises:
        TokenizationError: A block could not be tokenized.
    """
    parts = [block.result() for block in blocks]
    if len(parts) == 1:
        return parts[0]
    return Features(
        input_ids=tuple(row for part in parts for row in part.input_ids),
        token_type_ids=tuple(row for part in parts for row in part.token_type_ids),
        example_index=np.concatenate([part.example_index for part in parts]),
        offsets=tuple(row for part in parts for row in part.offsets),
    )


def _block(cache: FeatureCache, examples: Examples, start: int) -> Features:
    features = cache.rows(examples[start : start + _BLOCK])
    return Features(
        features.input_ids,
        features.token_type_ids,
        features.example_index + start,
        features.offsets,
    )
