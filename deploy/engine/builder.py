"""Build a TensorRT plan, by datacenter TensorRT or TensorRT for RTX, from one code path.

Both have nearly the same Python API; where they differ stands here. Networks are strongly typed:
precision is what the ONNX file says, so there is no precision flag to set.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import threading
import time
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from calib_data.progress import Progress, SilentProgress
from deploy.engine.build_monitor import BuildProgress, make_monitor, run_cancellable
from deploy.engine.profiles import Profile
from deploy.engine.timing_cache import attach_timing_cache, keep_timing_cache, timing_cache_path
from deploy.engine.trt_logger import make_logger
from deploy.environment import gpu_names
from deploy.errors import EngineError

_MIB = 1 << 20


class Flavour(str, Enum):
    """A distribution of TensorRT."""

    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt-rtx"

    @property
    def module(self) -> str:
        """Name of the Python module."""
        return self.value.replace("-", "_")

    @property
    def package(self) -> str:
        """The distribution that installs it."""
        return f"{self.value}-cu13"


class HardwareCompatibility(str, Enum):
    """Which GPUs beside the building one may run a plan of datacenter TensorRT.

    A plan of TensorRT for RTX runs on every GPU of its target, and has no such choice.
    """

    NONE = "none"
    SAME_COMPUTE_CAPABILITY = "same-compute-capability"
    AMPERE_PLUS = "ampere-plus"

    @property
    def member(self) -> str:
        """Its name in `trt.HardwareCompatibilityLevel`."""
        return self.value.upper().replace("-", "_")


@dataclass(frozen=True)
class BuilderOptions:
    """How to build; every default is TensorRT's.

    Attributes:
        workspace_mib: Device memory that a kernel may use beside inputs and outputs, in MiB; None
            for all there is.
        optimization_level: From 0, fastest build, to 5, fastest engine; TensorRT's default is 3.
        hardware_compatibility: Which GPUs may run the engine; `tensorrt` only.
        version_compatible: Let later releases of the same major version load the engine; `tensorrt`
            only.
    """

    workspace_mib: int | None = None
    optimization_level: int | None = None
    hardware_compatibility: HardwareCompatibility = HardwareCompatibility.NONE
    version_compatible: bool = False


@dataclass(frozen=True)
class EngineSpec:
    """What to build.

    Attributes:
        onnx: The model; its types are the engine's types.
        flavour: Which TensorRT builds.
        profiles: Optimization profiles, in the order of the engine's profile indexes.
        target: Compute capability such as "sm89" (tensorrt-rtx only); None builds for the GPU
            of this machine.
        options: How to build it.
    """

    onnx: Path
    flavour: Flavour
    profiles: tuple[Profile, ...]
    target: str | None
    options: BuilderOptions = BuilderOptions()


@dataclass(frozen=True)
class BuiltEngine:
    """A plan, and what the builder said about it.

    Attributes:
        plan: The serialized engine.
        log: Every message of the builder, in order; it holds the layer listing.
        version: Version of the TensorRT that built it.
        seconds: How long parsing and building took.
    """

    plan: bytes
    log: tuple[str, ...]
    version: str
    seconds: float


def installed_flavours() -> tuple[Flavour, ...]:
    """The flavours that can be imported here, the datacenter one first."""
    return tuple(flavour for flavour in Flavour if importlib.util.find_spec(flavour.module))


def supported_targets(flavour: Flavour) -> tuple[str, ...]:
    """Compute capabilities that a flavour builds for without having the GPU, such as "sm89"."""
    capabilities = getattr(import_flavour(flavour), "ComputeCapability", None)
    if capabilities is None:
        return ()
    return tuple(name.lower() for name in dir(capabilities) if name.startswith("SM"))


def build_engine(spec: EngineSpec, progress: Progress | None = None) -> BuiltEngine:
    """Parse an ONNX file and build a plan.

    Args:
        spec: What to build.
        progress: Shown how far the build is.

    Raises:
        EngineError: The flavour is not installed, the target is unknown to it, the parser refuses
            a node (which is named), or the builder fails (its last error is quoted).
        KeyboardInterrupt: Ctrl-C; the build has been told to stop.
    """
    trt = import_flavour(spec.flavour)
    logger = make_logger(trt, keep_messages=True)
    started = time.monotonic()
    try:
        builder = trt.Builder(logger)
    except Exception as error:
        raise EngineError(
            f"{spec.flavour.value} cannot create a builder: {error}",
            "datacenter TensorRT needs an NVIDIA GPU and driver even to build; without one, use "
            "--engine tensorrt-rtx or --engine none",
        ) from error
    network = builder.create_network(_network_flags(trt))
    _parse(trt, network, logger, spec.onnx)
    config = _configure(trt, builder, network, spec)
    cache = _timing_cache(trt, config, spec.flavour)
    cancelled = threading.Event()
    what = f"Building {spec.onnx.stem} for {spec.target or 'this GPU'}"
    with (progress or SilentProgress()).meter(what) as show:
        config.progress_monitor = make_monitor(trt, BuildProgress(show), cancelled)
        plan = run_cancellable(lambda: builder.build_serialized_network(network, config), cancelled)
    if plan is None:
        raise EngineError(
            f"{spec.flavour.value} cannot build '{spec.onnx}': {logger.last_error}",
            "see the log (--log-level debug); a smaller --max-batch needs less memory",
        )
    if cache is not None:
        keep_timing_cache(config, cache)
    return BuiltEngine(
        plan=bytes(plan),
        log=tuple(logger.messages),
        version=str(trt.__version__),
        seconds=time.monotonic() - started,
    )


def import_flavour(flavour: Flavour) -> Any:
    """The Python module of a flavour.

    Raises:
        EngineError: It is not installed, or its libraries cannot be loaded.
    """
    try:
        return importlib.import_module(flavour.module)
    except ImportError as error:
        raise EngineError(
            f"{flavour.value} is not installed: {error}",
            f"pip install {flavour.package}, or use --engine none",
        ) from error


def flavour_version(flavour: Flavour) -> str:
    """Version of the TensorRT that is imported, whatever distribution it was installed by.

    There are wheels for several CUDA versions, and NVIDIA's containers have another still.

    Raises:
        EngineError: It is not installed, or its libraries cannot be loaded.
    """
    return str(import_flavour(flavour).__version__)


def _network_flags(trt: Any) -> int:
    # TensorRT 11 has no other kind of network and may drop the flag; 10.x needs it.
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _configure(trt: Any, builder: Any, network: Any, spec: EngineSpec) -> Any:
    config = builder.create_builder_config()
    # Without it the layer listing has no types, and fusion could not be checked.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    options = spec.options
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib * _MIB)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.hardware_compatibility is not HardwareCompatibility.NONE:
        config.hardware_compatibility_level = _level(trt, options.hardware_compatibility)
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    # TensorRT for RTX: without it, the engine may allocate while it runs, which no CUDA graph can
    # capture (its release notes, 1.2).
    user_allocation = getattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION", None)
    if user_allocation is not None:
        config.set_flag(user_allocation)
    if spec.target is not None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(_capability(trt, spec), 0)
    for profile in spec.profiles:
        _add_profile(builder, config, network, profile)
    return config


def _timing_cache(trt: Any, config: Any, flavour: Flavour) -> Path | None:
    """Attach this GPU's timing cache; None where the flavour has none."""
    if flavour is Flavour.TENSORRT_RTX:
        return None
    path = timing_cache_path(str(trt.__version__), gpu_names()[0])
    attach_timing_cache(config, path)
    return path


def _parse(trt: Any, network: Any, logger: Any, onnx: Path) -> None:
    parser = trt.OnnxParser(network, logger)
    # As bytes: the binding takes a path that is no UTF-8 in no other way.
    if parser.parse_from_file(os.fsencode(onnx)):
        return
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    detail = "; ".join(
        f"node '{error.node_name()}' ({error.node_operator()}): {error.desc()}" for error in errors
    )
    raise EngineError(
        f"TensorRT's parser refuses '{onnx}': {detail or logger.last_error}",
        "export the model again with `deploy build`; if that repeats, report the node named above",
    )


def _capability(trt: Any, spec: EngineSpec) -> Any:
    known = supported_targets(spec.flavour)
    if spec.target not in known:
        raise EngineError(
            f"{spec.flavour.value} {trt.__version__} cannot build for '{spec.target}'",
            f"use --target with one of: {', '.join(known) or '(none: it builds for this GPU)'}",
        )
    return getattr(trt.ComputeCapability, spec.target.upper())


def _level(trt: Any, wanted: HardwareCompatibility) -> Any:
    # 10.12 may lack a level that later releases have.
    level = getattr(trt.HardwareCompatibilityLevel, wanted.member, None)
    if level is None:
        raise EngineError(
            f"TensorRT {trt.__version__} has no hardware compatibility '{wanted.value}'",
            "leave --hardware-compatibility out, or install a later TensorRT",
        )
    return level


def _add_profile(builder: Any, config: Any, network: Any, profile: Profile) -> None:
    optimization_profile = builder.create_optimization_profile()
    shapes = [(shape.batch, shape.sequence) for shape in (profile.min, profile.opt, profile.max)]
    for index in range(network.num_inputs):
        optimization_profile.set_shape(network.get_input(index).name, *shapes)
    config.add_optimization_profile(optimization_profile)
