"""What the machine and its packages say of themselves, read without importing any of them."""

from __future__ import annotations

import ctypes
import importlib.util
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from deploy.engine.builder import Flavour, installed_flavours
from deploy.environment import PACKAGES, ask_nvidia_smi

# Beyond those that shape a result.
_ALSO = ("requests", "onnxruntime-gpu", "cuda-bindings")

# Distributions that bring a flavour's module, for one CUDA release or another.
_FLAVOUR_PACKAGES = {
    flavour: (f"{flavour.value}-cu13", f"{flavour.value}-cu12", flavour.value)
    for flavour in Flavour
}


@dataclass(frozen=True)
class Gpu:
    """A GPU that the driver reports; None where it does not tell.

    Attributes:
        name: Of the GPU.
        driver: Version of its driver.
        capability: Compute capability, such as (8, 9).
    """

    name: str
    driver: str
    capability: tuple[int, int] | None

    @property
    def target(self) -> str:
        """Compute capability as `--target` spells it; "gpu" where it is unknown."""
        return "sm{}{}".format(*self.capability) if self.capability else "gpu"


@dataclass(frozen=True)
class Facts:
    """What everything else is concluded from.

    Attributes:
        gpus: NVIDIA GPUs, by index.
        driver_cuda: Newest CUDA that the driver runs, such as (13, 0); None without a driver.
        torch_cuda: CUDA that torch was built for; None for a CPU build, or without torch.
        packages: Version by distribution, of those that are installed.
        flavours: Version by flavour of TensorRT, of those that can be imported.
    """

    gpus: tuple[Gpu, ...]
    driver_cuda: tuple[int, int] | None
    torch_cuda: tuple[int, int] | None
    packages: Mapping[str, str]
    flavours: Mapping[Flavour, str]


def gather_facts() -> Facts:
    """Ask the driver and the installed packages."""
    return Facts(
        gpus=_gpus(),
        driver_cuda=_driver_cuda(),
        torch_cuda=_torch_cuda(),
        packages=_versions((*PACKAGES, *_ALSO)),
        flavours={
            flavour: next(iter(_versions(_FLAVOUR_PACKAGES[flavour]).values()), "unknown version")
            for flavour in installed_flavours()
        },
    )


def _gpus() -> tuple[Gpu, ...]:
    gpus = []
    for line in ask_nvidia_smi("driver_version,compute_cap,name"):
        parts = [part.strip() for part in line.split(",", maxsplit=2)]
        if len(parts) == 3:  # not a sentence, such as that there is no device
            driver, capability, name = parts
            gpus.append(Gpu(name, driver, _release(capability)))
    return tuple(gpus)


def _driver_cuda() -> tuple[int, int] | None:
    """cuDriverGetVersion: 1000 * major + 10 * minor (CUDA Driver API, Version Management)."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    number = ctypes.c_int()
    if driver.cuDriverGetVersion(ctypes.byref(number)) != 0:
        return None
    return number.value // 1000, number.value % 1000 // 10


def _torch_cuda() -> tuple[int, int] | None:
    """What torch/version.py says; importing torch takes seconds."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    try:
        text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"^cuda\b[^=]*=\s*['\"]([\d.]+)['\"]", text, re.MULTILINE)
    return _release(found.group(1)) if found else None


def _release(text: str) -> tuple[int, int] | None:
    found = re.match(r"(\d+)\.(\d+)", text)
    return (int(found.group(1)), int(found.group(2))) if found else None


def _versions(names: Iterable[str]) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
