"""A TensorRT engine in memory: what it reads and writes, and execution contexts for it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from deploy.engine.buckets import per_token
from deploy.engine.builder import Flavour, import_flavour
from deploy.engine.cuda import Cuda
from deploy.engine.plan import PlanInfo
from deploy.engine.profiles import Profile, Shape
from deploy.engine.trt_logger import make_logger
from deploy.errors import EngineError

# TensorRT's types of inputs and outputs, by name; the quantized ones stay inside an engine.
_NUMPY_TYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT64": "int64",
    "INT32": "int32",
    "INT8": "int8",
    "UINT8": "uint8",
    "BOOL": "bool",
}


@dataclass(frozen=True)
class IOTensor:
    """An input or output, as the engine declares it.

    Attributes:
        name: Its name.
        dtype: Its type.
        shape: Its dimensions; -1 where they are dynamic.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class TrtEngine:
    """A deserialized plan.

    Attributes:
        info: What the plan is.
        cuda: The GPU it is on.
        inputs: The token inputs, [batch, sequence].
        outputs: The outputs, [batch, …].
        profiles: Optimization profiles, by their indexes.
        activation_bytes: Device memory that a context works in, whatever its profile.
        shares_profiles: Whether several contexts may use one profile at the same time.
    """

    def __init__(self, plan: bytes, info: PlanInfo, cuda: Cuda) -> None:
        """Deserialize a plan, which runs it: it must come from `load_plan`.

        Raises:
            EngineError: The flavour is not installed, TensorRT refuses the plan, or its inputs
                and outputs are not those of a model of this toolchain.
        """
        self.info = info
        self.cuda = cuda
        self._trt = import_flavour(info.flavour)
        self._logger = make_logger(self._trt, keep_messages=False)
        self._runtime = self._trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise EngineError(
                f"{info.flavour.value} {self._trt.__version__} refuses the plan: "
                f"{self.last_error()}",
                "build it again on this machine with `deploy build`",
            )
        self.inputs, self.outputs = self._read_tensors()
        self.profiles = self._read_profiles()
        # The property without _v2 is TensorRT 8.6's, and gone in 11.
        name = "device_memory_size_v2"
        name = name if hasattr(self._engine, name) else "device_memory_size"
        self.activation_bytes = int(getattr(self._engine, name))
        self.shares_profiles = _shares_profiles(info.flavour, str(self._trt.__version__))
        self._lock = threading.Lock()
        self._in_use: list[int] = []

    def __enter__(self) -> TrtEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the engine. Contexts in use keep it alive until they are closed."""
        self._engine = self._runtime = None

    def last_error(self) -> str:
        """What TensorRT last complained of."""
        return str(self._logger.last_error)

    @contextmanager
    def context(
        self, profile: int, stream: int, activations: int, captured: bool = False
    ) -> Iterator[Any]:
        """An `IExecutionContext` for one profile.

        Args:
            profile: Index of the profile, which it never leaves.
            stream: The only stream that it will run on.
            activations: Address of `activation_bytes` of device memory; contexts that never run
                at the same time can share it.
            captured: Whether its work will be captured in a CUDA graph.

        Raises:
            EngineError: The engine is closed, another context has the profile and this release
                cannot share it, or TensorRT creates no context.
        """
        self._claim(profile)
        try:
            context = self._create_context(captured)
            if context is None:
                raise self._context_error(profile)
            if hasattr(context, "set_device_memory"):  # not in TensorRT 8.6
                context.set_device_memory(activations, self.activation_bytes)
            else:
                context.device_memory = activations
            if not context.set_optimization_profile_async(profile, stream):
                raise self._context_error(profile)
            yield context
            del context  # destroyed before another may have the profile
        finally:
            with self._lock:
                self._in_use.remove(profile)

    def _claim(self, profile: int) -> None:
        with self._lock:
            if self._engine is None:
                raise EngineError("the engine is closed", "open it again before making sessions")
            if profile in self._in_use and not self.shares_profiles:
                raise EngineError(
                    f"TensorRT {self._trt.__version__} allows profile {profile} to one execution "
                    "context at a time, and it is in use",
                    "close the other session first, open the plan twice, or use TensorRT 10",
                )
            self._in_use.append(profile)

    def _create_context(self, captured: bool) -> Any:
        strategies = getattr(self._trt, "ExecutionContextAllocationStrategy", None)
        if strategies is None:  # TensorRT 8.6, whose call for this is gone in 11
            create = getattr(self._engine, "create_execution_context_without_device_memory", None)
            return create() if create else None
        # TensorRT for RTX compiles kernels for a new shape in the background and changes to them
        # when they are ready; a captured graph would go on with the slow ones.
        specialization = getattr(self._trt, "DynamicShapesKernelSpecializationStrategy", None)
        if captured and specialization is not None:
            config = self._engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(strategies.USER_MANAGED)
            config.dynamic_shapes_kernel_specialization_strategy = specialization.EAGER
            return self._engine.create_execution_context(config)
        return self._engine.create_execution_context(strategies.USER_MANAGED)

    def _context_error(self, profile: int) -> EngineError:
        return EngineError(
            f"TensorRT creates no execution context for profile {profile}: {self.last_error()}",
            "free memory on the GPU, or build with a smaller --max-batch or fewer --buckets",
        )

    def _read_tensors(self) -> tuple[tuple[IOTensor, ...], tuple[IOTensor, ...]]:
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        read = [
            name
            for name in names
            if self._engine.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT
        ]
        inputs = tuple(self._read_tensor(name) for name in read)
        outputs = tuple(self._read_tensor(name) for name in names if name not in read)
        foreign = [t for t in inputs if len(t.shape) != 2 or t.dtype.kind not in "iub"]
        # All but the batch, and the sequence where it is an axis, must be known beforehand.
        foreign += [
            t
            for t in outputs
            if not t.shape or -1 in t.shape[2 if per_token(t.shape, inputs[0].shape) else 1 :]
        ]
        if foreign:
            found = ", ".join(f"'{t.name}' is {t.dtype} {t.shape}" for t in foreign)
            raise EngineError(
                f"the plan is not of an encoder: {found}",
                "build one from a checkpoint with `deploy build`",
            )
        return inputs, outputs

    def _read_tensor(self, name: str) -> IOTensor:
        dtype = self._engine.get_tensor_dtype(name).name
        if dtype not in _NUMPY_TYPES:
            raise EngineError(
                f"'{name}' has the type {dtype}, which no session can read or write",
                "build the plan again with `deploy build`",
            )
        return IOTensor(name, _numpy(dtype), tuple(self._engine.get_tensor_shape(name)))

    def _read_profiles(self) -> tuple[Profile, ...]:
        name = self.inputs[0].name
        return tuple(
            Profile(*(Shape(*dims) for dims in self._engine.get_tensor_profile_shape(name, index)))
            for index in range(self._engine.num_optimization_profiles)
        )


def _shares_profiles(flavour: Flavour, version: str) -> bool:
    """TensorRT before 10 does so only for a plan built with PreviewFeature.PROFILE_SHARING_0806.

    The plan does not tell, and this toolchain builds none with that feature.
    """
    return flavour is Flavour.TENSORRT_RTX or int(version.partition(".")[0]) >= 10


def _numpy(name: str) -> np.dtype[Any]:
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16 if name == "BF16" else _NUMPY_TYPES[name])
