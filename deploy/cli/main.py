"""Entry point of the `deploy` command: whatever goes wrong ends in lines, not in a traceback."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import threading
from typing import NoReturn

from calib_data.errors import ToolchainError
from deploy.cli.signals import sigterm_interrupts, stopped_by

# What typer makes of a KeyboardInterrupt, without a word.
_INTERRUPTED = 130

# Characters of a message.
_LONGEST = 2000

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def main() -> None:
    """Run the command line and exit with its code."""
    # onnxruntime (1.32 does) would tell its vendor about the models that it runs.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    with sigterm_interrupts() as terminated:
        try:
            # Imported here, so that an interrupt during the import ends like any other.
            from deploy.cli.app import run

            exit_code = run()
        except ToolchainError as error:
            _fail(error.message, error.remedy, error.exit_code)
        except KeyboardInterrupt:
            exit_code = _INTERRUPTED
        except Exception as error:
            if isinstance(error, OSError) and error.errno in _DISK_FULL:
                _fail(str(error), "free disk space, or use a folder on another disk", 1)
            logging.getLogger("deploy.cli").debug("unexpected", exc_info=error)
            _fail(f"unexpected {type(error).__name__}: {error}", _report(error), 1)
        if exit_code == _INTERRUPTED:
            _exit_stopped(signal.SIGTERM if terminated else signal.SIGINT)
    sys.exit(exit_code)


def _report(error: Exception) -> str:
    """What to do about an error that nobody foresaw."""
    from deploy.logs import log_crash, log_of

    log = log_of(error) or log_crash(error)
    if log is None:
        return "run it with --log-level debug for the traceback, and report it with that"
    return f"report it with '{log}', which has the traceback, and what `deploy doctor` prints"


def _fail(message: str, remedy: str, exit_code: int) -> NoReturn:
    import typer

    typer.secho(f"error: {_shown(message)}", fg="red", err=True)
    typer.echo(f"try: {_shown(remedy)}", err=True)
    sys.exit(exit_code)


def _shown(text: str) -> str:
    """One line without secrets, of a length that a person reads."""
    from calib_data.redact import redact

    # Messages quote file names, data and other libraries' errors: line feeds, bytes that are no
    # text, and what a terminal would obey.
    line = " ".join(redact(text).encode("utf-8", "replace").decode("utf-8").split())
    line = "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in line
    )
    if len(line) <= _LONGEST:
        return line
    half = (_LONGEST - 3) // 2
    return f"{line[:half]} … {line[-half:]}"


def _exit_stopped(number: int) -> NoReturn:
    exit_code, word = stopped_by(number)
    print(word, file=sys.stderr)
    if threading.active_count() > 1:
        # Deep in one step, a TensorRT build does not hear that it is cancelled, and the
        # interpreter must not be taken down under it. Everything of ours has been unwound by now.
        sys.stderr.flush()
        os._exit(exit_code)
    sys.exit(exit_code)


if __name__ == "__main__":
    main()
