"""How long work tells that it is alive, without knowing who listens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """Receives the progress of anything that may take over a second."""

    def track(self, items: Iterable[T], description: str, total: int) -> Iterator[T]:
        """Pass `items` on, counting them against `total`."""

    def meter(self, description: str) -> AbstractContextManager[Callable[[float], None]]:
        """Announce work that tells, as a share from 0 to 1, how much of it is done."""

    def status(self, description: str) -> AbstractContextManager[None]:
        """Announce work whose length is unknown, until the context closes."""


class SilentProgress:
    """Progress for library use: passes everything on and shows nothing."""

    def track(self, items: Iterable[T], description: str, total: int) -> Iterator[T]:
        """Pass `items` on."""
        return iter(items)

    def meter(self, description: str) -> AbstractContextManager[Callable[[float], None]]:
        """Take what is told, and do nothing."""
        return nullcontext(lambda share: None)

    def status(self, description: str) -> AbstractContextManager[None]:
        """Do nothing."""
        return nullcontext()
