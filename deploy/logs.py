"""Log files: the one that --log-file names, and those of the last builds in OUT/logs.

A file takes everything, whatever is shown meanwhile: it is read when something has gone wrong.
"""

from __future__ import annotations

import logging
import os
import platform
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

from calib_data.errors import ToolchainError, UsageError
from calib_data.redact import redact

_LOG = logging.getLogger(__name__)

PACKAGES = ("calib_data", "export", "deploy")

# In OUT/logs, the running build's among them.
_KEPT = 5

# As `build_log` names them; what else lies beside is the user's.
_BUILD_LOG = re.compile(r"\d{8}T\d{6}\.\d{3}Z\.log")

# Where an error carries the path of the file that has its traceback.
_LOG_FILE = "log_file"


class LogFormatter(logging.Formatter):
    """Lines without secrets: whatever the project logs, anywhere, passes through here."""

    def format(self, record: logging.LogRecord) -> str:
        """The record, and its traceback where it has one."""
        return redact(super().format(record))


class TimedFormatter(LogFormatter):
    """Lines that begin with the time: ISO 8601, milliseconds, offset from UTC."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        """The record's time; logging calls this by its name."""
        return (
            datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")
        )

    def format(self, record: logging.LogRecord) -> str:
        """The record, its level in lower case as `error:` lines have it."""
        record.__dict__["level"] = record.levelname.lower()
        return super().format(record)


class _LogFile(logging.FileHandler):
    """A file that cannot be written any more does not take down what it reports on."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Drop the record: its disk may be full, and its place on standard error is not here."""

    def close(self) -> None:
        """Close, whatever is left unwritten."""
        with suppress(OSError):
            super().close()


class _AsBefore(logging.Handler):
    """Gives a logger's handlers, and the root's, what they would get without a log file."""

    def __init__(self, logger: logging.Logger) -> None:
        super().__init__(logger.getEffectiveLevel())
        self._handlers = tuple(logger.handlers)
        # Without any handler, the root's way of last resort shows warnings.
        self._passes_on = logger.propagate and bool(logging.root.handlers or not self._handlers)

    def emit(self, record: logging.LogRecord) -> None:
        """Hand the record over."""
        for handler in self._handlers:
            if record.levelno >= handler.level:
                handler.handle(record)
        if self._passes_on:
            logging.root.callHandlers(record)


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Append what this project's packages log to a file, from debug up, while the context is open.

    What is shown elsewhere stays the same. The file ends with how the context ended: an error's
    message and remedy, or the traceback of one that nobody foresaw; `log_of` then names the file.

    Args:
        path: In an existing folder.

    Raises:
        UsageError: The file cannot be opened.
    """
    try:
        handler = _LogFile(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise UsageError(
            f"cannot write the log '{path}': {error.strerror}",
            "give --log-file a file that this user may write, in a folder that exists",
        ) from error
    with _recording(handler, path):
        yield


@contextmanager
def _recording(handler: logging.Handler, path: Path) -> Iterator[None]:
    """What `log_to` promises, for a file that is open."""
    handler.setFormatter(TimedFormatter("%(asctime)s %(level)s %(name)s: %(message)s"))
    with _attached(handler):
        _LOG.debug(
            "deploy %s, Python %s, %s, process %d",
            version("bert-trt-deploy"),
            platform.python_version(),
            platform.platform(),
            os.getpid(),
        )
        try:
            yield
        except ToolchainError as error:
            _end(handler, logging.ERROR, f"{error.message}; try: {error.remedy}")
            raise
        except Exception as error:
            _end(handler, logging.ERROR, "unexpected", error)
            with suppress(AttributeError):  # an error with __slots__ takes no path along
                setattr(error, _LOG_FILE, path)
            raise
        except BaseException as error:
            _end(handler, logging.WARNING, f"interrupted ({type(error).__name__})")
            raise


@contextmanager
def build_log(out: Path) -> Iterator[None]:
    """Log to a new file in OUT/logs, and keep the last five.

    A build goes on without a log where none can be written.

    Args:
        out: A build folder, which the caller holds.
    """
    folder = out / "logs"
    # The time of the start, in UTC: names sort by age.
    now = datetime.now(timezone.utc)
    path = folder / f"{now:%Y%m%dT%H%M%S}.{now.microsecond // 1000:03d}Z.log"
    try:
        folder.mkdir(exist_ok=True)
        logs = sorted(each for each in folder.iterdir() if _BUILD_LOG.fullmatch(each.name))
        for old in logs[: max(0, len(logs) + 1 - _KEPT)]:
            old.unlink()
        handler = _LogFile(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        _LOG.warning("no log of this build: cannot write '%s': %s", folder, error.strerror)
        yield
        return
    with _recording(handler, path):
        yield


def log_of(error: BaseException) -> Path | None:
    """The log file that has an error's traceback, if one has."""
    path: Path | None = getattr(error, _LOG_FILE, None)
    return path


def log_crash(error: Exception) -> Path | None:
    """Write the traceback of an error that came while no log was open.

    Returns:
        A new file in the system's folder for temporary ones; None where that cannot be written.
    """
    try:
        number, name = tempfile.mkstemp(prefix="deploy-", suffix=".log")
        os.close(number)
        with suppress(type(error)), log_to(Path(name)):
            raise error
    except (OSError, UsageError):
        return None
    return Path(name)


@contextmanager
def _attached(handler: logging.Handler) -> Iterator[None]:
    """Let a handler have all records of the packages, and everybody else what they had before."""
    loggers = [logging.getLogger(name) for name in PACKAGES]
    before = [(list(logger.handlers), logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers = [_AsBefore(logger), handler]
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
            logger.handlers = handlers
            logger.setLevel(level)
            logger.propagate = propagate
        handler.close()


def _end(
    handler: logging.Handler, level: int, message: str, error: Exception | None = None
) -> None:
    """Write to the file alone: whoever catches the error says the same on standard error."""
    exc_info = None if error is None else sys.exc_info()
    handler.handle(_LOG.makeRecord(_LOG.name, level, __file__, 0, message, (), exc_info))
