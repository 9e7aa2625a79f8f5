"""The values of options, as a command line or a YAML file spells them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from calib_data.errors import UsageError
from deploy.engine.session import Backend, Precision

_TARGET = re.compile("sm[0-9]{2,3}")

# What TensorRT, numpy and torch all take for a size, a count or a seed.
_LARGEST = 2**31 - 1

_EnumT = TypeVar("_EnumT", bound=Enum)


def parse_items(value: Any) -> tuple[str, ...]:
    """The items of a list, or of comma-separated text."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, Iterable):
        parts = (parts,)
    return tuple(str(part).strip() for part in parts if str(part).strip())


def parse_member(kind: type[_EnumT], option: str, value: Any) -> _EnumT:
    """The member of an enumeration that an option names.

    Raises:
        UsageError: It names none; the remedy lists them.
    """
    try:
        return kind(str(value))
    except ValueError:
        choices = ", ".join(str(member.value) for member in kind)
        raise UsageError(
            f"unknown {option} '{value}'", f"use --{option} with one of: {choices}"
        ) from None


def parse_integer(option: str, value: Any, least: int, most: int = _LARGEST) -> int:
    """A whole number from `least` to `most`.

    Raises:
        UsageError: It is none, or is outside.
    """
    try:
        number = int(str(value))
    except ValueError:
        raise UsageError(
            f"--{option} is not a whole number: '{value}'", f"give a whole number from {least}"
        ) from None
    if number < least:
        raise UsageError(f"--{option} is {number}", f"give at least {least}")
    if number > most:
        raise UsageError(f"--{option} is {number}", f"give at most {most}")
    return number


def parse_path(value: Any) -> Path:
    """A path, with the user's tilde replaced, which in a file no shell has done.

    Raises:
        UsageError: It begins with the tilde of a user that does not exist.
    """
    try:
        return Path(str(value)).expanduser()
    except RuntimeError as error:  # of a user that does not exist
        raise UsageError(f"'{value}': {error}", "write the folder out in full") from error


def parse_precisions(value: Any) -> tuple[Precision, ...]:
    """The value of --precision, each once.

    Raises:
        UsageError: It is empty, or one of them is unknown.
    """
    chosen = tuple(
        dict.fromkeys(parse_member(Precision, "precision", item) for item in parse_items(value))
    )
    if not chosen:
        raise UsageError("--precision is empty", "use for example --precision fp8,fp16")
    return chosen


def parse_integers(option: str, value: Any, least: int, example: str) -> tuple[int, ...]:
    """The whole numbers of an option, ascending, each once.

    Raises:
        UsageError: There are none, or one of them is below `least` or no number.
    """
    numbers = tuple(sorted({parse_integer(option, item, least) for item in parse_items(value)}))
    if not numbers:
        raise UsageError(f"--{option} is empty", f"use for example --{option} {example}")
    return numbers


def parse_buckets(value: Any) -> tuple[int, ...]:
    """Sequence buckets, ascending.

    Raises:
        UsageError: There is none, or one is no length.
    """
    return parse_integers("buckets", value, 8, "64,128")


def parse_max_drop(value: Any) -> float:
    """The value of --max-drop, 0 to 1, 1 left out.

    Raises:
        UsageError: It is no such number.
    """
    drop = parse_number("max-drop", value, "0.01 for 1 %")
    if not 0.0 <= drop < 1.0:
        raise UsageError(f"--max-drop is {drop}", "give a share from 0 to 1, such as 0.01 for 1 %")
    return drop


def parse_min(value: Any) -> dict[str, float]:
    """The minima of metrics, by name: a mapping, or METRIC=VALUE, once or several times.

    Raises:
        UsageError: One is spelled otherwise, or is no number that a metric can have.
    """
    if isinstance(value, Mapping):
        pairs = [(str(name), least) for name, least in value.items()]
    else:
        pairs = []
        for item in parse_items(value):
            name, equals, least = item.partition("=")
            if not equals:
                raise UsageError(f"--min is '{item}'", "use --min METRIC=VALUE: accuracy=0.9")
            pairs.append((name.strip(), least.strip()))
    minima = {name: parse_number(f"min {name}", least, "0.9") for name, least in pairs}
    for name, number in minima.items():
        if not -1.0 <= number <= 1.0:
            raise UsageError(
                f"--min {name}={number:g}: no metric has such values",
                "give a share, such as 0.9 for 90 %",
            )
    return minima


def parse_min_agreement(value: Any) -> float:
    """The value of --min-agreement, 0 to 1.

    Raises:
        UsageError: It is no such number.
    """
    least = parse_number("min-agreement", value, "0.98 for 98 %")
    if not 0.0 <= least <= 1.0:
        raise UsageError(
            f"--min-agreement is {least}", "give a share from 0 to 1, such as 0.98 for 98 %"
        )
    return least


def parse_number(option: str, value: Any, example: str) -> float:
    """A number.

    Raises:
        UsageError: It is none.
    """
    try:
        return float(str(value))
    except ValueError:
        raise UsageError(f"--{option} is not a number: '{value}'", f"use {example}") from None


def parse_targets(value: Any) -> tuple[str, ...]:
    """Compute capabilities, in the order given.

    Raises:
        UsageError: There is none, or one is spelled otherwise than sm89.
    """
    targets = tuple(dict.fromkeys(item.lower() for item in parse_items(value)))
    wrong = [target for target in targets if not _TARGET.fullmatch(target)]
    if wrong or not targets:
        raise UsageError(
            f"unknown target '{wrong[0]}'" if wrong else "--target is empty",
            "name compute capabilities, for example --target sm89,sm120",
        )
    return targets


def parse_flag(option: str, value: Any) -> bool:
    """True or false.

    Raises:
        UsageError: It is neither.
    """
    if not isinstance(value, bool):
        raise UsageError(f"{option} is '{value}', not true or false", f"write {option}: true")
    return value


def parse_backend(value: Any) -> Backend | None:
    """The value of --backend; None for auto.

    Raises:
        UsageError: It is unknown.
    """
    return None if str(value) == "auto" else parse_member(Backend, "backend", value)
