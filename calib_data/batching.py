"""Rows of similar length side by side, so that little of a batch is padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calib_data.errors import UsageError
from calib_data.features import Features


@dataclass(frozen=True)
class Batch:
    """Rows that are fed together.

    Attributes:
        rows: Which rows of the features, int64 [batch].
        length: Tokens to which they are padded.
    """

    rows: NDArray[np.int64]
    length: int


def bucketed_batches(
    lengths: NDArray[np.int64],
    buckets: Sequence[int],
    batch_size: int,
    shortest: Sequence[int] | None = None,
) -> tuple[Batch, ...]:
    """Share rows out among batches, each row in the smallest bucket that holds it.

    A batch is padded to its bucket or, where that takes shorter ones, to its own longest row.

    Args:
        lengths: Tokens in each row, int64 [rows].
        buckets: Sequence lengths in tokens, ascending.
        batch_size: Rows at most in a batch.
        shortest: Tokens at least in a batch of each bucket; None for the bucket itself.

    Returns:
        Batches of ascending length that hold every row once; the last of a bucket may be smaller.

    Raises:
        UsageError: A row is longer than the largest bucket.
    """
    order = np.argsort(lengths, kind="stable")
    bucket_of = np.searchsorted(buckets, lengths[order])
    if len(order) and bucket_of[-1] == len(buckets):
        row = int(order[-1])
        raise UsageError(
            f"row {row} has {lengths[row]} tokens, the largest bucket {buckets[-1]}",
            f"use --buckets with a last one of at least {lengths[row]}",
        )
    batches = []
    for index, least in enumerate(buckets if shortest is None else shortest):
        rows = order[bucket_of == index]
        for start in range(0, len(rows), batch_size):
            taken = rows[start : start + batch_size]
            batches.append(Batch(taken, max(least, int(lengths[taken[-1]]))))
    return tuple(batches)


def collate(features: Features, batch: Batch, pad_token_id: int) -> dict[str, NDArray[np.int64]]:
    """Pad a batch's rows on the right to its bucket.

    Args:
        features: Where the rows are.
        batch: Which rows, and to what length.
        pad_token_id: The tokenizer's padding token.

    Returns:
        `input_ids`, `attention_mask` (1 on tokens) and `token_type_ids`, int64 [batch, length].
    """
    shape = (len(batch.rows), batch.length)
    arrays: dict[str, NDArray[np.int64]] = {
        "input_ids": np.full(shape, pad_token_id, dtype=np.int64),
        "attention_mask": np.zeros(shape, dtype=np.int64),
        "token_type_ids": np.zeros(shape, dtype=np.int64),
    }
    for line, row in enumerate(batch.rows):
        tokens = len(features.input_ids[row])
        arrays["input_ids"][line, :tokens] = features.input_ids[row]
        arrays["attention_mask"][line, :tokens] = 1
        arrays["token_type_ids"][line, :tokens] = features.token_type_ids[row]
    return arrays
