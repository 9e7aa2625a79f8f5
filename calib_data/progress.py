"""How long work tells that it is alive, without knowing who listens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """Receives the progress of anything that may take over a second."""

    def track(self, items: Iterable[T], description: str, total: int) -> Iterator[T]:
        """Pass `items` on, counting them against `total`."""

    def status(self, description: str) -> AbstractContextManager[None]:
        """Announce work whose length is unknown, until the context closes."""


class SilentProgress:
    """Progress for library use: passes everything on and shows nothing."""

    def track(self, items: Iterable[T], description: str, total: int) -> Iterator[T]:
        """Pass `items` on."""
        return iter(items)

    def status(self, description: str) -> AbstractContextManager[None]:
        """Do nothing."""
        return nullcontext()
