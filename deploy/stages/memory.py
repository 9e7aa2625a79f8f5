"""The most memory that this process held during a piece of work."""

from __future__ import annotations

from pathlib import Path

_RESET_PEAK = "5"  # proc(5), /proc/pid/clear_refs, since Linux 4.0


def reset_peak() -> bool:
    """Let `peak_bytes` count from now on; False where the system cannot."""
    try:
        Path("/proc/self/clear_refs").write_text(_RESET_PEAK, encoding="ascii")
    except OSError:
        return False
    return True


def peak_bytes() -> int | None:
    """Largest resident set since `reset_peak`; None where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None
