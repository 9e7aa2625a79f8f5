"""The state of the machine around a measurement. Everything is read, nothing is set."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deploy.environment import ask_nvidia_smi, cpu_name

_CPU0 = Path("/sys/devices/system/cpu/cpu0/cpufreq")

# Attributes of `GpuState` by their names in nvidia-smi's --query-gpu. A release that does not know
# one refuses the whole query, so these are of its oldest.
_TEXT = {
    "name": "name",
    "driver": "driver_version",
    "pstate": "pstate",
    "ecc": "ecc.mode.current",
    "mig": "mig.mode.current",
    "persistence": "persistence_mode",
}
_NUMBERS = {
    "sm_clock_mhz": "clocks.sm",
    "max_sm_clock_mhz": "clocks.max.sm",
    "memory_clock_mhz": "clocks.mem",
    "power_limit_w": "power.limit",
    "power_draw_w": "power.draw",
    "temperature_c": "temperature.gpu",
    "utilization_percent": "utilization.gpu",
    "memory_used_mib": "memory.used",
}


@dataclass(frozen=True)
class GpuState:
    """A GPU at one moment; None where it does not tell.

    Attributes:
        name: Of the GPU.
        driver: Version of its driver.
        pstate: Performance state, P0 the fastest.
        ecc: Whether memory errors are corrected: "Enabled" or "Disabled".
        mig: Whether it is partitioned: "Enabled" or "Disabled".
        persistence: Whether the driver stays loaded: "Enabled" or "Disabled".
        sm_clock_mhz: Clock of the multiprocessors.
        max_sm_clock_mhz: The highest that it can have.
        memory_clock_mhz: Clock of the memory.
        power_limit_w: Power at which clocks are lowered.
        power_draw_w: Power drawn.
        temperature_c: Of the GPU.
        utilization_percent: Share of the last second in which a kernel ran, whoever's.
        memory_used_mib: Memory taken, whoever's.
    """

    name: str | None
    driver: str | None
    pstate: str | None
    ecc: str | None
    mig: str | None
    persistence: str | None
    sm_clock_mhz: float | None
    max_sm_clock_mhz: float | None
    memory_clock_mhz: float | None
    power_limit_w: float | None
    power_draw_w: float | None
    temperature_c: float | None
    utilization_percent: float | None
    memory_used_mib: float | None


@dataclass(frozen=True)
class CpuState:
    """The CPU at one moment; None where the system does not tell.

    Attributes:
        name: Model name.
        cores: Logical cores of the machine.
        usable_cores: Those that this process may use.
        threads: Threads that this process has.
        governor: What sets the clock, such as "performance".
        clock_mhz: Of the first core.
        load: Runnable threads, averaged over the last minute, this process's included.
    """

    name: str
    cores: int | None
    usable_cores: int | None
    threads: int | None
    governor: str | None
    clock_mhz: float | None
    load: float | None


def machine_state() -> dict[str, Any]:
    """GPUs and CPU at this moment, for results.json."""
    return {
        "gpus": [asdict(gpu) for gpu in gpu_states()],
        "cpu": asdict(cpu_state()),
    }


def gpu_states() -> tuple[GpuState, ...]:
    """Every GPU that the driver reports; empty without one."""
    lines = ask_nvidia_smi(",".join((*_TEXT.values(), *_NUMBERS.values())))
    answers = [[value.strip() for value in line.split(",")] for line in lines]
    asked = len(_TEXT) + len(_NUMBERS)
    # Anything else is a sentence, such as that there is no device.
    return tuple(_gpu_state(values) for values in answers if len(values) == asked)


def _gpu_state(values: list[str]) -> GpuState:
    told = dict(zip((*_TEXT, *_NUMBERS), values, strict=True))
    state: dict[str, Any] = {name: _text(told[name]) for name in _TEXT}
    state.update({name: _number(told[name]) for name in _NUMBERS})
    return GpuState(**state)


def cpu_state() -> CpuState:
    """The CPU, and what this process has of it."""
    clock = _number(_read(_CPU0 / "scaling_cur_freq") or "")
    return CpuState(
        name=cpu_name(),
        cores=os.cpu_count(),
        usable_cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        threads=_threads(),
        governor=_read(_CPU0 / "scaling_governor"),
        clock_mhz=None if clock is None else clock / 1e3,
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    )


def _text(value: str) -> str | None:
    # "[N/A]", "[Not Supported]", "[Unknown Error]"
    return None if value.startswith("[") else value


def _number(value: str) -> float | None:
    """The number in front of a unit, as in "1980 MHz"."""
    try:
        return float(value.split()[0])
    except (IndexError, ValueError):
        return None


def _threads() -> int | None:
    tasks = Path("/proc/self/task")
    return sum(1 for _ in tasks.iterdir()) if tasks.is_dir() else None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return None
