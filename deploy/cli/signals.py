"""SIGTERM, which Docker, Kubernetes and batch systems send, ends a command as Ctrl-C does.

Whatever tidies up after an interrupt does so after it too: it raises the same exception. Without a
handler the first process of a container would not hear of it at all.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

STOPPING = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def sigterm_interrupts() -> Iterator[Sequence[int]]:
    """Let SIGTERM raise KeyboardInterrupt in the main thread.

    Yields:
        SIGTERM's number once it has come, for whoever catches that.
    """
    heard: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        heard.append(number)
        # A second one must not interrupt what tidies up.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    on_main = threading.current_thread() is threading.main_thread()
    # Who has it ignored, or handles it, started this so.
    if not on_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield heard
        return
    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield heard
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def stopped_by(number: int) -> tuple[int, str]:
    """The exit code after a signal, as shells report it, and the last line on standard error."""
    return 128 + number, "terminated" if number == signal.SIGTERM else "interrupted"
