"""What a result was measured on."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

PACKAGES = (
    "bert-trt-deploy",
    "torch",
    "triton",
    "transformers",
    "tokenizers",
    "datasets",
    "nvidia-modelopt",
    "onnx",
    "onnx-ir",
    "onnxscript",
    "onnxruntime",
    "tensorrt-rtx-cu13",
    "tensorrt-cu13",
    "scikit-learn",
    "scipy",
)


def installed_versions() -> dict[str, str | None]:
    """Version of every package that shapes a result; None where it is not installed."""
    return {name: _version(name) for name in PACKAGES}


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU that the driver reports.

    Attributes:
        name: As the driver has it.
        driver: Its version.
        target: Compute capability, such as "sm90".
    """

    name: str
    driver: str
    target: str


def find_gpus() -> tuple[Gpu, ...]:
    """The NVIDIA GPUs of this machine, in the driver's order; empty without one."""
    found = []
    for line in ask_nvidia_smi("name,driver_version,compute_cap"):
        name, driver, capability = (part.strip() for part in line.rsplit(",", 2))
        found.append(Gpu(name, driver, f"sm{capability.replace('.', '')}"))
    return tuple(found)


def gpu_names() -> tuple[str, ...]:
    """Names of the NVIDIA GPUs that the driver reports, with its version; empty without one."""
    return ask_nvidia_smi("name,driver_version")


def gpu_targets() -> tuple[str, ...]:
    """Compute capabilities of the GPUs here, such as "sm89", each once; empty without one."""
    capabilities = ask_nvidia_smi("compute_cap")
    return tuple(dict.fromkeys(f"sm{each.replace('.', '')}" for each in capabilities))


def describe_environment() -> dict[str, object]:
    """Machine and versions, for results.json."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "gpus": list(gpu_names()),
        "packages": {name: found for name, found in installed_versions().items() if found},
    }


def cpu_name() -> str:
    """The processor's model name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return None


def ask_nvidia_smi(fields: str) -> tuple[str, ...]:
    """A line of comma-separated answers for every GPU; empty where nvidia-smi has none.

    Args:
        fields: Names that its --query-gpu knows, separated by commas.
    """
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    query = [tool, f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(line.strip() for line in answer.stdout.splitlines() if line.strip())
