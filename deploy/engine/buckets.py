"""Fit a batch to a profile: pick its bucket, pad to it, cut the padding off again.

A bucket is a profile's longest sequence. Every session pads here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.engine.profiles import Profile, Shape
from deploy.errors import BackendError

_INTEGER_KINDS = "iub"


def array_refusal(values: Any) -> str | None:
    """Why a host input is refused; None for an integer or bool numpy array."""
    if not isinstance(values, np.ndarray):
        return f"is a {type(values).__name__}, not a numpy array"
    return None if values.dtype.kind in _INTEGER_KINDS else f"is {values.dtype}, not integer"


def input_shape(
    inputs: Mapping[str, Any],
    names: Sequence[str],
    refusal: Callable[[Any], str | None] = array_refusal,
) -> Shape:
    """Check what a session is given, before any of it is copied.

    Args:
        inputs: Arrays or tensors by input name.
        names: What the model reads; other inputs are ignored.
        refusal: Says why an input's kind or type is refused, None if it is not.

    Returns:
        The shape that all of them have, [batch, sequence].

    Raises:
        BackendError: An input is missing, of the wrong type or rank, empty, or of another shape
            than the first.
    """
    first: tuple[int, ...] | None = None
    for name in names:
        values = inputs.get(name)
        if values is None:
            raise BackendError(
                f"input '{name}' is missing: the batch has {', '.join(inputs) or 'none'}",
                f"pass all that the model reads: {', '.join(names)}",
            )
        reason = refusal(values)
        if reason is not None:
            raise BackendError(
                f"input '{name}' {reason}",
                "pass integers: numpy arrays to run, torch tensors on the session's GPU to "
                "run_device",
            )
        shape = values.shape
        if len(shape) != 2 or 0 in shape:
            raise BackendError(
                f"input '{name}' has the shape {tuple(shape)}",
                "pass [batch, sequence] with at least one row and one token",
            )
        if first is None:
            first = shape
        elif shape != first:
            raise BackendError(
                f"input '{name}' has the shape {tuple(shape)}, '{names[0]}' {tuple(first)}",
                "pass all inputs of a batch padded to one length",
            )
    if first is None:
        raise BackendError("the model reads no input", "build it again with `deploy build`")
    return Shape(*first)


def pick_profile(profiles: Sequence[Profile], shape: Shape) -> int:
    """Index of the smallest profile that holds a batch.

    Args:
        profiles: By ascending sequence.
        shape: Of the batch.

    Raises:
        BackendError: It has more rows or tokens than every profile.
    """
    for index, profile in enumerate(profiles):
        if shape.sequence <= profile.max.sequence and shape.batch <= profile.max.batch:
            return index
    largest = ", ".join(f"{each.max.batch} x {each.max.sequence}" for each in profiles)
    raise BackendError(
        f"a batch of {shape.batch} x {shape.sequence} tokens fits no profile; the largest that "
        f"fit: {largest}",
        "build with --max-batch and --buckets that cover it, or split the batch",
    )


def pad_into(target: NDArray[Any], values: NDArray[Any], pad: int) -> None:
    """Write a batch into the first rows and columns of a buffer, `pad` into the others.

    Args:
        target: [rows, columns], of the type that the engine reads; the values are cast to it.
        values: Integers, [batch, sequence], not larger than `target` in either.
        pad: Fills the rest.
    """
    batch, sequence = values.shape
    target[:batch, :sequence] = values
    if sequence < target.shape[1]:
        target[:batch, sequence:] = pad
    if batch < target.shape[0]:
        target[batch:] = pad


def per_token(output: Sequence[Any], tokens: Sequence[Any]) -> bool:
    """Whether an output's axis 1 is the sequence, by the shapes that the model declares.

    Args:
        output: Declared shape of the output; what is dynamic has the same mark in both.
        tokens: Declared shape of a token input, [batch, sequence].
    """
    return len(output) > 1 and output[1] == tokens[1]


def cut(values: NDArray[Any], shape: Shape, by_token: bool) -> NDArray[Any]:
    """A view of an output without the rows, and of a per-token one the columns, of padding."""
    return values[: shape.batch, : shape.sequence] if by_token else values[: shape.batch]


def write_out(name: str, values: NDArray[Any], target: NDArray[Any]) -> NDArray[Any]:
    """Copy an output to where the caller wants it, and return that array.

    Raises:
        BackendError: It has another shape than the output.
    """
    check_out(name, values.shape, target.shape)
    np.copyto(target, values)
    return target


def check_out(name: str, shape: Sequence[int], target: Sequence[int]) -> None:
    """Refuse an array for an output that numpy or torch would broadcast into.

    Raises:
        BackendError: The shapes differ.
    """
    if tuple(shape) != tuple(target):
        raise BackendError(
            f"out['{name}'] has the shape {tuple(target)}, the output {tuple(shape)}",
            "pass an array of the output's shape, without padding",
        )


def graph_sizes(profile: Profile, batches: Sequence[int] = ()) -> tuple[int, ...]:
    """Batches that CUDA graphs are captured for, ascending.

    Args:
        profile: Where.
        batches: What is wanted; without any, 1, 2, 4, … and the largest of the profile.
    """
    if batches:
        allowed = range(profile.min.batch, profile.max.batch + 1)
        return tuple(sorted(set(batches) & set(allowed)))
    largest = profile.max.batch
    powers = (1 << exponent for exponent in range(largest.bit_length()))
    return tuple(sorted({max(size, profile.min.batch) for size in powers} | {largest}))
