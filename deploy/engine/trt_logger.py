"""TensorRT's logger: keeps what it is told, and passes on what a user should see."""

from __future__ import annotations

import logging
from typing import Any

_LOG = logging.getLogger(__name__)

# Said of every token input of every build; sessions bind int64 because the engine declares it.
_INT64_REMINDER = "has Int64 binding"


def make_logger(trt: Any) -> Any:
    """A `trt.ILogger` that keeps every message and passes warnings on to `logging`.

    Args:
        trt: The module of a flavour.

    Returns:
        The logger; `messages` and `errors` are lists of text, in order.
    """
    levels = {
        trt.ILogger.INTERNAL_ERROR: logging.ERROR,
        trt.ILogger.ERROR: logging.ERROR,
        trt.ILogger.WARNING: logging.WARNING,
    }

    class MessageLogger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages: list[str] = []
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            self.messages.append(message)
            level = levels.get(severity, logging.DEBUG)
            if _INT64_REMINDER in message:
                level = logging.DEBUG
            if level == logging.ERROR:
                self.errors.append(message)
            _LOG.log(level, "%s", message)

    return MessageLogger()


def last_error(logger: Any) -> str:
    """The last error that TensorRT told the logger."""
    return logger.errors[-1] if logger.errors else "no reason given"
