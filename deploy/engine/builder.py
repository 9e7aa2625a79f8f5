"""Build a TensorRT plan, by datacenter TensorRT or TensorRT for RTX, from one code path.

Both have nearly the same Python API; where they differ stands here. Networks are strongly typed:
precision is what the ONNX file says, so there is no precision flag to set.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import time
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from deploy.engine.profiles import Profile
from deploy.errors import EngineError

_LOG = logging.getLogger(__name__)

# Said of every token input of every build; sessions bind int64 because the engine declares it.
_INT64_REMINDER = "has Int64 binding"


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


@dataclass(frozen=True)
class EngineSpec:
    """What to build.

    Attributes:
        onnx: The model; its types are the engine's types.
        flavour: Which TensorRT builds.
        profiles: Optimization profiles, in the order of the engine's profile indexes.
        target: Compute capability such as "sm89" (tensorrt-rtx only); None builds for the GPU
            of this machine.
    """

    onnx: Path
    flavour: Flavour
    profiles: tuple[Profile, ...]
    target: str | None


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
    capabilities = getattr(_import(flavour), "ComputeCapability", None)
    if capabilities is None:
        return ()
    return tuple(name.lower() for name in dir(capabilities) if name.startswith("SM"))


def build_engine(spec: EngineSpec) -> BuiltEngine:
    """Parse an ONNX file and build a plan.

    Raises:
        EngineError: The flavour is not installed, the target is unknown to it, the parser refuses
            a node (which is named), or the builder fails (its last error is quoted).
    """
    trt = _import(spec.flavour)
    messages = _logger(trt)
    started = time.monotonic()
    try:
        builder = trt.Builder(messages)
    except Exception as error:
        raise EngineError(
            f"{spec.flavour.value} cannot create a builder: {error}",
            "datacenter TensorRT needs an NVIDIA GPU and driver even to build; without one, use "
            "--engine tensorrt-rtx or --engine none",
        ) from error
    network = builder.create_network(_network_flags(trt))
    _parse(trt, network, messages, spec.onnx)
    config = builder.create_builder_config()
    # Without it the layer listing has no types, and fusion could not be checked.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if spec.target is not None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(_capability(trt, spec), 0)
    for profile in spec.profiles:
        _add_profile(builder, config, network, profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(
            f"{spec.flavour.value} cannot build '{spec.onnx}': {_last_error(messages)}",
            "see the log (--log-level debug); a smaller --max-batch needs less memory",
        )
    return BuiltEngine(
        plan=bytes(plan),
        log=tuple(messages.messages),
        version=str(trt.__version__),
        seconds=time.monotonic() - started,
    )


def _import(flavour: Flavour) -> Any:
    try:
        return importlib.import_module(flavour.module)
    except ImportError as error:
        raise EngineError(
            f"{flavour.value} is not installed: {error}",
            f"pip install {flavour.package}, or use --engine none",
        ) from error


def _logger(trt: Any) -> Any:
    """A TensorRT logger that keeps every message and passes warnings on to `logging`."""
    levels = {
        trt.ILogger.INTERNAL_ERROR: logging.ERROR,
        trt.ILogger.ERROR: logging.ERROR,
        trt.ILogger.WARNING: logging.WARNING,
    }

    class MessageLogger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages: list[str] = []
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            self.messages.append(message)
            level = levels.get(severity, logging.DEBUG)
            if _INT64_REMINDER in message:
                level = logging.DEBUG
            if level == logging.ERROR:
                self.errors.append(message)
            _LOG.log(level, "%s", message)

    return MessageLogger()


def _network_flags(trt: Any) -> int:
    # TensorRT 11 has no other kind of network and may drop the flag; 10.x needs it.
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _parse(trt: Any, network: Any, messages: Any, onnx: Path) -> None:
    parser = trt.OnnxParser(network, messages)
    if parser.parse_from_file(str(onnx)):
        return
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    detail = "; ".join(
        f"node '{error.node_name()}' ({error.node_operator()}): {error.desc()}" for error in errors
    )
    raise EngineError(
        f"TensorRT's parser refuses '{onnx}': {detail or _last_error(messages)}",
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


def _add_profile(builder: Any, config: Any, network: Any, profile: Profile) -> None:
    optimization_profile = builder.create_optimization_profile()
    shapes = [(shape.batch, shape.sequence) for shape in (profile.min, profile.opt, profile.max)]
    for index in range(network.num_inputs):
        optimization_profile.set_shape(network.get_input(index).name, *shapes)
    config.add_optimization_profile(optimization_profile)


def _last_error(messages: Any) -> str:
    return messages.errors[-1] if messages.errors else "no reason given"
