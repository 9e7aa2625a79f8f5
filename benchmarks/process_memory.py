"""Memory of the process that asks. Standard library only: other environments import it too.

Each side of a comparison reads its own high-water mark. What a parent gets from
`getrusage(RUSAGE_CHILDREN)` is something else: Linux counts the memory of the process that forked
until the child's exec, so a small child of a large parent looks as large as its parent.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def peak_mb() -> float:
    """Largest resident set since this process's exec or `forget_peak`, in 10^6 bytes."""
    if _STATUS.is_file():
        return _status_mb("VmHWM")
    # macOS counts bytes here, and other systems without /proc kibibytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def forget_peak() -> None:
    """Let `peak_mb` begin anew from what is resident now; without effect outside of Linux."""
    if _CLEAR.is_file():
        _CLEAR.write_text("5", encoding="ascii")  # proc_pid_clear_refs(5)


def resident_mb() -> float:
    """Resident set of this process now, in 10^6 bytes; its peak where the system has no /proc."""
    return _status_mb("VmRSS") if _STATUS.is_file() else peak_mb()


def _status_mb(field: str) -> float:
    for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024 / 1e6
    raise OSError(f"{_STATUS} has no {field}")
