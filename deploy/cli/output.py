"""Where a command writes: results to standard output, progress and errors to standard error."""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from calib_data import progress
from calib_data.redact import redact
from deploy.logs import PACKAGES, LogFormatter, TimedFormatter, log_to

# Every command imports this module for its options; `rich` only once there is something to show.
if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

T = TypeVar("T")

# Wider than any table; a table takes only what it needs.
_UNLIMITED_WIDTH = 1000


class LogLevel(str, Enum):
    """From which severity on log records are shown."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


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
    def meter(self, description: str) -> Iterator[Callable[[float], None]]:
        """Show a bar of the share that is done."""
        from rich.progress import (
            BarColumn,
            Progress,
            TaskProgressColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        ) as bar:
            task = bar.add_task(description, total=1.0)
            yield lambda share: bar.update(task, completed=share)

    @contextmanager
    def status(self, description: str) -> Iterator[None]:
        """Show a spinner until the context closes."""
        if not self._console.is_terminal:
            yield
            return
        with self._console.status(description):
            yield

    def _bar(self) -> Progress:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TaskProgressColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

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
    """Standard error, even while `only_results_on_stdout` is in force."""
    from rich.console import Console

    return Console(file=sys.stderr)


def result_console() -> Console:
    """Standard output; into a pipe or a file, tables are as wide as they need to be."""
    from rich.console import Console

    console = Console(highlight=False)
    if console.is_terminal:
        return console
    return Console(highlight=False, width=_UNLIMITED_WIDTH)


@contextmanager
def only_results_on_stdout() -> Iterator[None]:
    """Send to standard error what libraries print, be it from Python or from native code.

    Standard output is the result alone, so this stands around all work that comes before it.
    """
    sys.stdout.flush()
    try:
        kept = os.dup(1)
    except OSError:  # started with standard output closed: nothing to protect
        yield
        return
    try:
        os.dup2(2, 1)
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


@contextmanager
def working(
    *, quiet: bool, log_level: LogLevel, log_file: str | None
) -> Iterator[progress.Progress]:
    """Stand around all work of a command: sets up logging, gives progress, guards stdout.

    Raises:
        UsageError: The log file cannot be written.
    """
    console = error_console()
    set_up_logging(LogLevel.ERROR if quiet else log_level, console)
    to_file = nullcontext() if log_file is None else log_to(Path(log_file))
    with to_file, only_results_on_stdout():
        yield progress.SilentProgress() if quiet else TerminalProgress(console)


def print_json(content: Any) -> None:
    """Print one JSON object and nothing else on standard output."""
    print(redact(json.dumps(content, indent=2, allow_nan=False)))


def set_up_logging(level: LogLevel, console: Console) -> None:
    """Send log records of this project's packages to standard error, and keep others quiet.

    Call it before anything imports torch, transformers or datasets, which read their settings
    from the environment once. At `debug` they may say what they like.
    """
    handler: logging.Handler
    timed = level in {LogLevel.DEBUG, LogLevel.INFO}
    if console.is_terminal:  # by way of the console, so that a record does not tear a bar
        from rich.logging import RichHandler

        handler = RichHandler(console=console, show_path=False, show_time=timed)
        handler.setFormatter(LogFormatter("%(message)s"))
    else:
        handler = logging.StreamHandler(console.file)
        # What is meant for a person who waits begins as the `error:` lines do.
        handler.setFormatter(
            TimedFormatter(("%(asctime)s " if timed else "") + "%(level)s: %(message)s")
        )
    for name in PACKAGES:
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level.value.upper())
        logger.propagate = False
    if level is not LogLevel.DEBUG:
        _silence_libraries()
    if level is LogLevel.ERROR or not console.is_terminal:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")


def _silence_libraries() -> None:
    """Show no warning that the user of a command line can do nothing about."""
    warnings.simplefilter("ignore")
    for variable in ("TRANSFORMERS_VERBOSITY", "HF_HUB_VERBOSITY", "DATASETS_VERBOSITY"):
        os.environ.setdefault(variable, "error")
    # Every library logs below the root logger, unless it has set a level of its own.
    logging.getLogger().setLevel(logging.ERROR)
    # A CUDA build of torch warns here on every machine without a GPU.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
