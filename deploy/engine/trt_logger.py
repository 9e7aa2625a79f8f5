"""TensorRT's logger: keeps what it is told, and passes on what a user should see."""

from __future__ import annotations

import logging
from typing import Any

_LOG = logging.getLogger(__name__)

# Below debug: a builder says a hundred thousand of these, and `messages` keeps them.
_VERBOSE = logging.DEBUG - 5

# Said of every token input of every build; sessions bind int64 because the engine declares it.
_INT64_REMINDER = "has Int64 binding"


def make_logger(trt: Any, *, keep_messages: bool) -> Any:
    """A `trt.ILogger` that passes on to `logging` all but verbose messages.

    Args:
        trt: The module of a flavour.
        keep_messages: Whether `messages` keeps all there are, in order. A builder's holds the layer
            listing; a runtime lives as long as a server, and keeps its last error only.

    Returns:
        The logger, with `messages` and `last_error`.
    """
    levels = {
        trt.ILogger.INTERNAL_ERROR: logging.ERROR,
        trt.ILogger.ERROR: logging.ERROR,
        trt.ILogger.WARNING: logging.WARNING,
        trt.ILogger.INFO: logging.DEBUG,
    }

    class MessageLogger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages: list[str] = []
            self.last_error = "no reason given"

        def log(self, severity: Any, message: str) -> None:
            if keep_messages:
                self.messages.append(message)
            level = levels.get(severity, _VERBOSE)
            if _INT64_REMINDER in message:
                level = logging.DEBUG
            if level == logging.ERROR:
                self.last_error = message
            # What fails is raised where it matters, with this message in it.
            _LOG.log(min(level, logging.WARNING), "%s", message)

    return MessageLogger()
