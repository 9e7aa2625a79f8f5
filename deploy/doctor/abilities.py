"""What can be done on this machine, and the command that adds what cannot."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from deploy.doctor.facts import Facts, Gpu
from deploy.doctor.findings import FP8_CAPABILITY, RTX_CAPABILITIES
from deploy.engine.builder import Flavour

_EXPORT = ("torch", "transformers", "onnx", "onnx-ir", "onnxscript")
_ONNXRUNTIMES = ("onnxruntime", "onnxruntime-gpu")


@dataclass(frozen=True)
class Ability:
    """Something that a user may want to do here.

    Attributes:
        name: What.
        lacks: What it lacks; None where it works.
        remedy: What adds that; None where it works.
    """

    name: str
    lacks: str | None = None
    remedy: str | None = None

    @property
    def works(self) -> bool:
        """Whether it can be done."""
        return self.lacks is None


def abilities(facts: Facts) -> tuple[Ability, ...]:
    """Everything that the tool does, in the order of its stages."""
    return (
        export(facts),
        calibrate(facts),
        evaluate(facts),
        build_rtx_engines(facts),
        build_engines(facts),
        run_engines(facts),
        torch_baselines(facts),
        onnxruntime_baseline(facts),
    )


def export(facts: Facts) -> Ability:
    """Export a checkpoint to ONNX, and insert Q/DQ."""
    return _by_packages("export and quantize", _EXPORT, facts)


def calibrate(facts: Facts) -> Ability:
    """Calibrate by ModelOpt."""
    return _by_packages("calibrate", (*_EXPORT, "nvidia-modelopt", "requests"), facts)


def evaluate(facts: Facts) -> Ability:
    """Evaluate on the CPU."""
    name = "evaluate on the CPU (all but fp32 simulated)"
    if any(package in facts.packages for package in _ONNXRUNTIMES):
        return Ability(name)
    return Ability(name, "onnxruntime is not installed", "pip install onnxruntime")


def build_rtx_engines(facts: Facts) -> Ability:
    """Build by TensorRT for RTX, which takes no GPU."""
    targets = [f"sm{major}{minor}" for major, minor in RTX_CAPABILITIES]
    fp8 = ", ".join(
        f"sm{major}{minor}" for major, minor in RTX_CAPABILITIES if (major, minor) >= FP8_CAPABILITY
    )
    name = f"build engines for RTX GPUs: fp8 for {fp8}; others also for {', '.join(targets[:3])}"
    if Flavour.TENSORRT_RTX in facts.flavours:
        return Ability(name)
    return Ability(name, "tensorrt-rtx is not installed", _install(Flavour.TENSORRT_RTX))


def build_engines(facts: Facts) -> Ability:
    """Build by datacenter TensorRT, for the GPU that is here."""
    gpu = _first(facts)
    fp8 = gpu is not None and (gpu.capability or (0, 0)) >= FP8_CAPABILITY
    where = f"this GPU, {gpu.target}{', fp8 too' if fp8 else ''}" if gpu else "a datacenter GPU"
    name = f"build engines for {where}, by datacenter TensorRT"
    if gpu is None:
        return Ability(
            name, "no NVIDIA GPU is visible", "run the same build on the machine that will serve"
        )
    if Flavour.TENSORRT not in facts.flavours:
        return Ability(name, "tensorrt is not installed", _install(Flavour.TENSORRT))
    return Ability(name)


def run_engines(facts: Facts) -> Ability:
    """Run engines of a flavour that knows the GPU that is here."""
    gpu = _first(facts)
    if gpu is None:
        return Ability(
            "run engines",
            "no NVIDIA GPU is visible",
            "move the build folder to a machine with one; in a container, start it with --gpus all",
        )
    knows = [
        flavour
        for flavour in Flavour
        if flavour is Flavour.TENSORRT or gpu.capability in RTX_CAPABILITIES
    ]
    usable = [flavour for flavour in knows if flavour in facts.flavours]
    if not usable:
        names = " or ".join(flavour.value for flavour in knows)
        return Ability(
            f"run engines on {gpu.target}", f"{names} is not installed", _install(knows[-1])
        )
    name = f"run engines of {' and '.join(flavour.value for flavour in usable)} on {gpu.target}"
    return _by_packages(name, ("cuda-bindings",), facts)


def torch_baselines(facts: Facts) -> Ability:
    """Benchmark beside torch on a GPU."""
    name = "benchmark beside torch on the GPU"
    if not facts.gpus:
        return Ability(name, "no NVIDIA GPU is visible", "use a machine with one")
    if facts.torch_cuda is None:
        return Ability(
            name,
            "torch has no CUDA",
            "install a CUDA build of torch over it, as its installation page says",
        )
    return Ability(name)


def onnxruntime_baseline(facts: Facts) -> Ability:
    """Benchmark beside onnxruntime on a GPU."""
    name = "benchmark beside onnxruntime on the GPU"
    if not facts.gpus:
        return Ability(name, "no NVIDIA GPU is visible", "use a machine with one")
    if "onnxruntime-gpu" not in facts.packages or "onnxruntime" in facts.packages:
        return Ability(
            name,
            "onnxruntime-gpu is not installed, or not alone",
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu",
        )
    return Ability(name)


def _by_packages(name: str, packages: Iterable[str], facts: Facts) -> Ability:
    absent = [package for package in packages if package not in facts.packages]
    if not absent:
        return Ability(name)
    verb = "is" if len(absent) == 1 else "are"
    return Ability(
        name, f"{', '.join(absent)} {verb} not installed", f"pip install {' '.join(absent)}"
    )


def _install(flavour: Flavour) -> str:
    command = f"pip install {flavour.package}"
    if flavour is Flavour.TENSORRT:
        return f"{command}, from NVIDIA's own package index as its installation guide says"
    return command


def _first(facts: Facts) -> Gpu | None:
    return facts.gpus[0] if facts.gpus else None
