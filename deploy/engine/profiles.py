"""Optimization profiles: one per sequence bucket, batch dynamic.

With the sequence fixed, the builder times its kernels at the very shape that will run, and a batch
is padded to its bucket, not to the longest row there could be.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

# Tactics are timed at the opt shape. 8 is the middle of the batches that latency-bound serving
# uses; larger batches are so close to the arithmetic limit that the choice matters less.
_OPT_BATCH = 8

# A profile whose shortest sequence is below this loses every fused FP8 attention, be the sequence
# static or dynamic (TensorRT for RTX 1.7, SM89 and SM120; tests/deploy/test_engines.py).
MIN_FP8_SEQUENCE = 32


@dataclass(frozen=True)
class Shape:
    """Shape of the token inputs.

    Attributes:
        batch: Rows.
        sequence: Tokens per row, padding included.
    """

    batch: int
    sequence: int


@dataclass(frozen=True)
class Profile:
    """One optimization profile, the same for every token input."""

    min: Shape
    opt: Shape
    max: Shape


def bucket_profiles(buckets: tuple[int, ...], max_batch: int) -> tuple[Profile, ...]:
    """One profile per bucket: batch from 1 to `max_batch`, sequence fixed to the bucket."""
    return tuple(
        Profile(
            min=Shape(1, bucket),
            opt=Shape(min(_OPT_BATCH, max_batch), bucket),
            max=Shape(max_batch, bucket),
        )
        for bucket in buckets
    )


def any_length(profiles: tuple[Profile, ...]) -> tuple[Profile, ...]:
    """The same profiles for a session that compiles nothing: of any length up to their bucket.

    Who pads to the longest row of a batch then saves what the rest of the bucket would cost.
    """
    return tuple(replace(each, min=replace(each.min, sequence=1)) for each in profiles)
