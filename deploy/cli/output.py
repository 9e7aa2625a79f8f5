"""Where a command writes: results to standard output, progress and errors to standard error."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

T = TypeVar("T")


class TerminalProgress:
    """Bars with rate and time left on standard error; nothing where it is not a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def track(self, items: Iterable[T], description: str, total: int) -> Iterator[T]:
        """Pass `items` on behind a bar."""
        with self._bar() as bar:
            task = bar.add_task(description, total=total, rate="")
            for done, item in enumerate(items):
                yield item
                elapsed = bar.tasks[0].elapsed or 0.0
                rate = f"{(done + 1) / elapsed:.1f}/s" if elapsed else ""
                bar.update(task, advance=1, rate=rate)

    @contextmanager
    def status(self, description: str) -> Iterator[None]:
        """Show a spinner until the context closes."""
        if not self._console.is_terminal:
            yield
            return
        with self._console.status(description):
            yield

    def _bar(self) -> Progress:
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )


def error_console() -> Console:
    """Standard error."""
    return Console(stderr=True)


def print_json(content: Any) -> None:
    """Print one JSON object and nothing else on standard output."""
    print(json.dumps(content, indent=2, allow_nan=False))


def set_up_logging(level: str, console: Console) -> None:
    """Send log records of this project's packages to standard error."""
    handler = RichHandler(console=console, show_path=False, show_time=level == "debug")
    for name in ("calib_data", "export", "deploy"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level.upper())
        logger.propagate = False
