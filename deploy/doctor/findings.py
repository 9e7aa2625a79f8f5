"""One check a function: what was found, and what to do where it is not well."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from calib_data.cache import CACHE_VARIABLE, cache_path
from deploy.doctor.facts import Facts
from deploy.engine.builder import Flavour
from deploy.environment import cpu_name

# Where E4M3 tensor cores begin (CUDA C++ Programming Guide, table of tensor core types).
FP8_CAPABILITY = (8, 9)

# What TensorRT for RTX 1.7 builds for and runs on; it refuses Hopper and datacenter Blackwell.
RTX_CAPABILITIES = ((7, 5), (8, 0), (8, 6), (8, 9), (12, 0), (12, 1))

# A build of BERT-base: exporting it takes 2.2 GB of memory, its models and three engines 1.5 GB.
_MEMORY_GB = 3.0
_DISK_GB = 2.0

_GB = 1e9


class Status(str, Enum):
    """How well something is."""

    OK = "ok"
    MISSING = "missing"
    WARNING = "warning"


@dataclass(frozen=True)
class Finding:
    """The outcome of a check.

    Attributes:
        name: What was looked at.
        value: What was found.
        status: How well that is; what is merely absent and optional is OK.
        remedy: The command that mends it, if there is one.
    """

    name: str
    value: str
    status: Status = Status.OK
    remedy: str | None = None


def examine(facts: Facts) -> tuple[Finding, ...]:
    """Every check, in the order of the report."""
    return tuple(check(facts) for check in _CHECKS)


def check_python(facts: Facts) -> Finding:
    """Python and the system."""
    return Finding("python", f"{platform.python_version()}, {platform.platform()}")


def check_cpu(facts: Facts) -> Finding:
    """The processor."""
    return Finding("cpu", f"{cpu_name()}, {os.cpu_count()} cores")


def check_memory(facts: Facts) -> Finding:
    """Memory that is available without swapping."""
    available = _available_memory_gb()
    if available is None:
        return Finding("memory", "unknown")
    text = f"{available:.1f} GB available"
    if available < _MEMORY_GB:
        return Finding(
            "memory", text, Status.WARNING, f"a build of BERT-base needs {_MEMORY_GB:g} GB: free it"
        )
    return Finding("memory", text)


def check_gpus(facts: Facts) -> Finding:
    """GPUs, compute capability and driver."""
    if not facts.gpus:
        return Finding("gpu", "none: engines are built, not run")
    return Finding(
        "gpu", "; ".join(f"{gpu.name} ({gpu.target}, driver {gpu.driver})" for gpu in facts.gpus)
    )


def check_cuda(facts: Facts) -> Finding:
    """What CUDA the driver runs."""
    if facts.driver_cuda is None:
        if facts.gpus:
            return Finding(
                "cuda", "libcuda.so.1 is missing", Status.WARNING, "install the driver's libraries"
            )
        return Finding("cuda", "no driver")
    return Finding("cuda", f"driver runs up to {_dotted(facts.driver_cuda)}")


def check_fp8(facts: Facts) -> Finding:
    """Tensor cores for FP8."""
    if not facts.gpus:
        return Finding("fp8", "no GPU; simulated on the CPU")
    able = [gpu.name for gpu in facts.gpus if (gpu.capability or (0, 0)) >= FP8_CAPABILITY]
    if able:
        return Finding("fp8", f"tensor cores on {'; '.join(dict.fromkeys(able))}")
    return Finding(
        "fp8",
        f"none: compute capability {_dotted(FP8_CAPABILITY)} has them first",
        Status.WARNING,
        "use --precision int8 here",
    )


def check_torch(facts: Facts) -> Finding:
    """torch, and whether its build and the driver suit each other."""
    installed = facts.packages.get("torch")
    if installed is None:
        return _absent("torch")
    if facts.torch_cuda is None:
        if not facts.gpus:
            return Finding("torch", f"{installed}, CPU build")
        return Finding(
            "torch",
            f"{installed}, CPU build beside a GPU",
            Status.WARNING,
            "install a CUDA build of torch over it, as its installation page says",
        )
    text = f"{installed}, CUDA {_dotted(facts.torch_cuda)}"
    if facts.driver_cuda is not None and facts.driver_cuda[0] < facts.torch_cuda[0]:
        return Finding(
            "torch",
            f"{text}, too new for the driver",
            Status.WARNING,
            f"update the driver, or install torch for CUDA {facts.driver_cuda[0]}",
        )
    return Finding("torch", text)


def check_onnxruntime(facts: Facts) -> Finding:
    """onnxruntime: one of two distributions that overwrite each other's files."""
    cpu, gpu = (facts.packages.get(name) for name in ("onnxruntime", "onnxruntime-gpu"))
    if cpu and gpu:
        keep = "onnxruntime-gpu" if facts.gpus else "onnxruntime"
        return Finding(
            "onnxruntime",
            f"{cpu}, and onnxruntime-gpu {gpu}, which overwrite each other's files",
            Status.WARNING,
            f"pip uninstall -y onnxruntime onnxruntime-gpu && pip install {keep}",
        )
    if gpu:
        return Finding("onnxruntime", f"onnxruntime-gpu {gpu}: CUDA and CPU providers")
    if cpu:
        return Finding("onnxruntime", f"{cpu}: CPU provider")
    return _absent("onnxruntime")


def check_tensorrt(facts: Facts) -> Finding:
    """Datacenter TensorRT."""
    return _flavour(facts, Flavour.TENSORRT, "builds and runs" if facts.gpus else "needs a GPU")


def check_tensorrt_rtx(facts: Facts) -> Finding:
    """TensorRT for RTX."""
    able = [gpu for gpu in facts.gpus if gpu.capability in RTX_CAPABILITIES]
    return _flavour(
        facts,
        Flavour.TENSORRT_RTX,
        "builds and runs" if able else "builds; runs on RTX GPUs only",
    )


def check_disk(facts: Facts) -> Finding:
    """Free space where a build is written unless told otherwise."""
    return _space("disk", Path.cwd(), "give --out a folder on another disk")


def check_cache(facts: Facts) -> Finding:
    """Where the demo model is kept."""
    return _space("cache", cache_path(), f"set {CACHE_VARIABLE} to a folder you can write to")


def check_hub_cache(facts: Facts) -> Finding:
    """Where models and data from the Hugging Face hub are kept."""
    try:
        from huggingface_hub.constants import HF_HUB_CACHE
    except ImportError:
        return _absent("huggingface_hub")
    return _space("hub cache", Path(HF_HUB_CACHE), "set HF_HOME to a folder you can write to")


def _package(name: str) -> Callable[[Facts], Finding]:
    """A check of a package that is needed, whatever its version."""

    def check(facts: Facts) -> Finding:
        installed = facts.packages.get(name)
        return Finding(name, installed) if installed else _absent(name)

    return check


def check_cuda_bindings(facts: Facts) -> Finding:
    """NVIDIA's Python bindings of CUDA, which engines are run through."""
    installed = facts.packages.get("cuda-bindings")
    if installed or not facts.gpus:
        return Finding("cuda-bindings", installed or "not installed; without a GPU nothing runs")
    return _absent("cuda-bindings")


_CHECKS: tuple[Callable[[Facts], Finding], ...] = (
    check_python,
    check_cpu,
    check_memory,
    check_gpus,
    check_cuda,
    check_fp8,
    check_torch,
    _package("transformers"),
    _package("nvidia-modelopt"),
    _package("onnx"),
    check_onnxruntime,
    check_tensorrt,
    check_tensorrt_rtx,
    check_cuda_bindings,
    check_disk,
    check_cache,
    check_hub_cache,
)


def _absent(package: str) -> Finding:
    return Finding(package, "not installed", Status.MISSING, f"pip install {package}")


def _flavour(facts: Facts, flavour: Flavour, ability: str) -> Finding:
    # None is needed, so being absent is no fault; what it costs stands among the abilities.
    installed = facts.flavours.get(flavour)
    return Finding(flavour.value, f"{installed}: {ability}" if installed else "not installed")


def _space(name: str, folder: Path, remedy: str) -> Finding:
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    try:
        free = shutil.disk_usage(existing).free / _GB
    except OSError as error:
        return Finding(name, f"{folder}: {error.strerror}", Status.WARNING, remedy)
    if not os.access(existing, os.W_OK | os.X_OK):
        return Finding(name, f"{folder} cannot be written", Status.WARNING, remedy)
    status = Status.WARNING if free < _DISK_GB else Status.OK
    return Finding(
        name, f"{folder}, {free:.1f} GB free", status, remedy if status is Status.WARNING else None
    )


def _available_memory_gb() -> float | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024 / _GB  # "MemAvailable:   22334455 kB", of 1024
    return None


def _dotted(release: tuple[int, int]) -> str:
    return f"{release[0]}.{release[1]}"
