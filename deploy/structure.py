"""Whether plain data out of a file has the structure that its readers rely on.

A structure is a function that takes a value and where it stands, and raises where they do not fit:

    RUN = record({"backend": text, "n": count, "recipe": optional(text)})
    RUN(plain, "runs[0]")        # ValueError: runs[0].n is 'many', not a count
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

Structure = Callable[[Any, str], None]

# Beyond what any quantity of a build is, in its unit; below where products of two overflow.
_LARGEST = 1e18

# The smallest normal FP32.
_SMALLEST = 2.0**-126


def text(value: Any, where: str) -> None:
    """A text."""
    if not isinstance(value, str):
        _refuse(value, where, "a text")


def flag(value: Any, where: str) -> None:
    """True or false."""
    if not isinstance(value, bool):
        _refuse(value, where, "true or false")


def number(value: Any, where: str) -> None:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        _refuse(value, where, "a number")
    if not abs(value) <= _LARGEST:
        _refuse(value, where, "a possible quantity")


def quantity(value: Any, where: str) -> None:
    """A finite number that is not negative."""
    number(value, where)
    if value < 0 or 0 < value < _SMALLEST:
        _refuse(value, where, "a possible quantity")


def positive(value: Any, where: str) -> None:
    """A finite number over zero."""
    quantity(value, where)
    if value == 0:
        _refuse(value, where, "a possible quantity")


def count(value: Any, where: str) -> None:
    """A whole number that is not negative."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _LARGEST:
        _refuse(value, where, "a count")


def some(value: Any, where: str) -> None:
    """A whole number over zero."""
    count(value, where)
    if value == 0:
        _refuse(value, where, "a count of at least 1")


def scalar(value: Any, where: str) -> None:
    """A text, a number, a flag or nothing."""
    if value is not None and not isinstance(value, (str, bool)):
        number(value, where)


def one_of(*known: str) -> Structure:
    """One of these texts."""

    def check(value: Any, where: str) -> None:
        text(value, where)
        if value not in known:
            _refuse(value, where, f"one of {', '.join(known)}")

    return check


def optional(structure: Structure) -> Structure:
    """That, or null."""

    def check(value: Any, where: str) -> None:
        if value is not None:
            structure(value, where)

    return check


def either(*structures: Structure) -> Structure:
    """The first of these that fits; what the last says where none does."""

    def check(value: Any, where: str) -> None:
        for structure in structures[:-1]:
            try:
                return structure(value, where)
            except ValueError:
                continue
        return structures[-1](value, where)

    return check


def sequence(of: Structure, least: int = 0, most: int | None = None) -> Structure:
    """A list of that, of at least and at most so many."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, list):
            _refuse(value, where, "a list")
        if len(value) < least or (most is not None and len(value) > most):
            _refuse(value, where, f"a list of {least} to {'any number' if most is None else most}")
        for index, item in enumerate(value):
            of(item, f"{where}[{index}]")

    return check


def mapping(of: Structure, key: Structure = text) -> Structure:
    """An object with any names and values of that."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            _refuse(value, where, "an object")
        for name, item in value.items():
            key(name, f"a name in {where}")
            of(item, f"{where}.{name}")

    return check


def record(
    fields: Mapping[str, Structure], may: Mapping[str, Structure] | None = None
) -> Structure:
    """An object with these names, and of others at most those that it may have; all else passes."""
    known = {**fields, **(may or {})}

    def check(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            _refuse(value, where, "an object")
        for name in fields:
            if name not in value:
                raise ValueError(f"{where} has no '{name}'")
        for name, structure in known.items():
            if name in value:
                structure(value[name], f"{where}.{name}" if where else name)

    return check


def _refuse(value: Any, where: str, wanted: str) -> NoReturn:
    shown = repr(value)
    raise ValueError(f"{where} is {shown if len(shown) < 60 else shown[:57] + '...'}, not {wanted}")
