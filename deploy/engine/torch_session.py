"""The engine's own graph on torch: 8-bit tensor cores where TensorRT is missing.

On a GPU the graph is compiled, its 8-bit linears are 8-bit GEMMs, and CUDA graphs replay it. On the
CPU the same graph runs node by node in FP32 arithmetic, as onnxruntime has it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from calib_data.errors import ToolchainError
from deploy.engine.buckets import (
    cut,
    graph_sizes,
    input_shape,
    pad_into,
    per_token,
    pick_profile,
    write_out,
)
from deploy.engine.device_tensors import deliver, tensor_refusal
from deploy.engine.profiles import Profile, Shape
from deploy.engine.session import Arrays, Backend, Precision, SessionInfo
from deploy.engine.torch_graph import AS_WRITTEN, FOR_GPU, Lowering, convert
from deploy.engine.torch_runtime import (
    COMPILER,
    compiled,
    memory_explained,
    own_cublas_workspace,
)
from deploy.environment import cpu_name
from deploy.errors import BackendError
from export.onnx_file import read_onnx
from export.precision import FloatType, cast_floats

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_LOG = logging.getLogger(__name__)

# Where E4M3 tensor cores begin (CUDA C++ Programming Guide, table of tensor core types).
_FP8_CAPABILITY = (8, 9)

# Where torch._int_mm begins (cuBLASLt's INT8 GEMMs).
_INT8_CAPABILITY = (8, 0)

# Where the copy engine (TMA) begins that feeds our Triton kernels.
_TRITON_CAPABILITY = (9, 0)

_REBUILD = "build it again with `deploy build`"


@dataclass
class _Lane:
    """One padded shape: its buffers, and once captured, its CUDA graphs.

    Attributes:
        shape: The shape.
        host: Token inputs in pinned memory, int64 [inputs, batch, sequence].
        device: The same on the GPU.
        graphs: A CUDA graph and the outputs it writes, by whether attention takes the mask.
        landing: Outputs in pinned memory, in order.
    """

    shape: Shape
    host: Tensor
    device: Tensor
    graphs: dict[bool, tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...]]] = field(
        default_factory=dict
    )
    landing: tuple[Tensor, ...] = ()


class TorchSession:
    """A model on torch, from any thread, one call at a time.

    Attributes:
        info: What its numbers are worth.
        profiles: Shapes it accepts, by ascending sequence.
        input_names: The token inputs that it reads.
        stream: The CUDA stream that it works on, as an address; 0 on the CPU.
        graphs_bytes: Device memory that captured CUDA graphs take; 0 before `warmup`.
    """

    def __init__(
        self,
        onnx: Path,
        precision: Precision,
        profiles: tuple[Profile, ...],
        pad_token_id: int = 0,
        device: str | None = None,
        lowering: Lowering | None = None,
    ) -> None:
        """Read and convert a model.

        Args:
            onnx: As `export` writes it.
            precision: Of the model.
            profiles: Shapes to accept, by ascending sequence.
            pad_token_id: What `input_ids` are padded with.
            device: As torch calls it; None takes the first GPU, or the CPU where there is none.
            lowering: What is replaced by operations of the GPU's; None takes what it has.

        Raises:
            BackendError: The graph is not one that `export` writes, or the GPU has too little
                memory.
        """
        import torch

        self._device = device or ("cuda:0" if torch.cuda.is_available() else "cpu")
        self._gpu = self._device != "cpu"
        self.profiles = profiles
        model = read_onnx(onnx)
        lowering = lowering or (gpu_lowering(precision, self._device) if self._gpu else AS_WRITTEN)
        with memory_explained(), _refusal_explained(onnx):
            if not self._gpu and precision is not Precision.FP32:
                # As onnxruntime has it: the CPU has no 16-bit arithmetic to speak of.
                cast_floats(model, FloatType.FP32)
            graph = convert(model, lowering, self._device)
        if not graph.input_names or not graph.output_names:
            raise BackendError(f"'{onnx}' has no inputs or outputs", _REBUILD)
        self.input_names = graph.input_names
        self._output_names = graph.output_names
        tokens = [str(size) for size in model.graph.inputs[0].shape or ()]
        self._per_token = tuple(
            per_token([str(size) for size in value.shape or ()], tokens)
            for value in model.graph.outputs
        )
        self._pads = dict.fromkeys(self.input_names, 0) | {"input_ids": pad_token_id}
        self.info = _describe(precision, lowering, self._device, graph.simulated)
        self._graph = graph
        self._variants = (True,) if graph.unmasked is graph.module else (True, False)
        self._calls: dict[tuple[int, bool], Callable[..., tuple[Tensor, ...]]] = {}
        self.stream, self.graphs_bytes = 0, 0
        self._lanes: dict[Shape, _Lane] = {}
        self._lock = threading.Lock()
        self._closed = False
        if self._gpu:
            self._stream: torch.cuda.Stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            self.stream = self._stream.cuda_stream
            self._pool = torch.cuda.graph_pool_handle()

    def __enter__(self) -> TorchSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free graphs, buffers and weights. Closing again does nothing."""
        import torch

        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._lanes.clear()
            self._calls.clear()
            del self._graph
            if self._gpu:
                torch.cuda.synchronize(self._device)
                torch.cuda.empty_cache()

    def warmup(self, batches: Sequence[int] = ()) -> None:
        """Compile, and capture CUDA graphs in every profile; see `DeviceSession.warmup`."""
        import torch

        if not self._gpu:
            return
        with self._lock, memory_explained():
            self._check_open()
            held = torch.cuda.memory_reserved(self._device)
            for profile in reversed(self.profiles):
                for size in reversed(graph_sizes(profile, batches)):
                    self._capture(self._lane(Shape(size, profile.max.sequence)))
            torch.cuda.synchronize(self._device)
            # What graphs use comes from a pool of their own, which torch reserves for them.
            self.graphs_bytes += torch.cuda.memory_reserved(self._device) - held

    def run(
        self, inputs: Arrays, out: Mapping[str, NDArray[Any]] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Run one batch; see `Session.run`."""
        import torch

        shape = input_shape(inputs, self.input_names)
        padded = self._padded(shape)
        masked = self._masks(shape, padded, inputs["attention_mask"])
        with self._lock, torch.inference_mode(), memory_explained():
            self._check_open()
            lane = self._lane(padded)
            for target, name in zip(lane.host.numpy(), self.input_names, strict=True):
                pad_into(target, inputs[name], self._pads[name])
            values = self._to_host(lane, masked) if self._gpu else self._graph.module(*lane.host)
            found = {}
            for name, value, by_token in zip(
                self._output_names, values, self._per_token, strict=True
            ):
                part = cut(value.numpy(), shape, by_token)
                target = (out or {}).get(name)
                found[name] = (
                    part.astype(np.float32) if target is None else write_out(name, part, target)
                )
        return found

    def run_device(
        self, inputs: Mapping[str, Tensor], out: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Run one batch of torch tensors on the session's GPU; see `DeviceSession.run_device`.

        Whether anything is masked is not known without asking the GPU, so the mask is always
        passed to attention.
        """
        import torch

        shape = input_shape(inputs, self.input_names, tensor_refusal(self._device))
        padded = self._padded(shape)
        current = torch.cuda.current_stream(self._device)
        with self._lock, torch.inference_mode(), memory_explained():
            self._check_open()
            lane = self._lane(padded)
            self._stream.wait_stream(current)
            with torch.cuda.stream(self._stream):
                for target, name in zip(lane.device, self.input_names, strict=True):
                    if padded != shape:
                        target.fill_(self._pads[name])
                    target[: shape.batch, : shape.sequence].copy_(inputs[name])
                values = self._launch(lane, masked=True)
                results = {
                    name: value[: shape.batch, : shape.sequence].clone()
                    if by_token
                    else value[: shape.batch].clone()
                    for name, value, by_token in zip(
                        self._output_names, values, self._per_token, strict=True
                    )
                }
            current.wait_stream(self._stream)
            for value in results.values():
                value.record_stream(current)
        return deliver(results, out or {})

    def _check_open(self) -> None:
        if self._closed:
            raise BackendError("the session is closed", "open another one")

    def _masks(self, shape: Shape, padded: Shape, mask: NDArray[Any]) -> bool:
        """Whether attention must take the mask, or has no kernel that is faster without."""
        if False not in self._variants:
            return True
        return shape.sequence != padded.sequence or not bool(mask.all())

    def _padded(self, shape: Shape) -> Shape:
        profile = self.profiles[pick_profile(self.profiles, shape)]
        if not self._gpu:
            return shape
        rows = next(size for size in graph_sizes(profile) if size >= shape.batch)
        return Shape(rows, profile.max.sequence)

    def _lane(self, shape: Shape) -> _Lane:
        import torch

        if shape not in self._lanes:
            size = (len(self.input_names), shape.batch, shape.sequence)
            host = torch.zeros(size, dtype=torch.int64, pin_memory=self._gpu)
            lane = _Lane(shape, host, host.to(self._device) if self._gpu else host)
            if not self._gpu:
                return lane  # numpy has every shape there is: nothing is gained by keeping it
            self._lanes[shape] = lane
        return self._lanes[shape]

    def _launch(self, lane: _Lane, masked: bool) -> tuple[Tensor, ...]:
        captured = lane.graphs.get(masked)
        if captured is None:
            return self._call(lane, masked)
        graph, outputs = captured
        graph.replay()
        return outputs

    def _call(self, lane: _Lane, masked: bool) -> tuple[Tensor, ...]:
        """Run the compiled module of a bucket; it compiles when first called."""
        import torch

        key = (lane.shape.sequence, masked)
        if key not in self._calls:
            self._calls[key] = compiled(self._graph.module if masked else self._graph.unmasked)
        inputs = lane.device.unbind()
        if lane.shape.batch > 1:  # a batch of 1 is compiled for itself
            for each in inputs:
                torch._dynamo.mark_dynamic(each, 0)
        try:
            with COMPILER:
                return self._calls[key](*inputs)
        except torch._dynamo.exc.TorchDynamoException as error:
            raise BackendError(
                f"torch cannot compile the graph: {str(error).strip().splitlines()[0]}",
                "it needs a C compiler and triton; without them use --backend onnxruntime",
            ) from error

    def _to_host(self, lane: _Lane, masked: bool) -> tuple[Tensor, ...]:
        import torch

        with torch.cuda.stream(self._stream):
            lane.device.copy_(lane.host, non_blocking=True)
            values = self._launch(lane, masked)
            if not lane.landing:
                lane.landing = tuple(
                    torch.empty(value.shape, dtype=value.dtype, pin_memory=True) for value in values
                )
            for landing, value in zip(lane.landing, values, strict=True):
                landing.copy_(value, non_blocking=True)
        self._stream.synchronize()
        return lane.landing

    def _capture(self, lane: _Lane) -> None:
        import torch

        with torch.inference_mode(), torch.cuda.stream(self._stream):
            lane.device.zero_()  # there is a token 0 in every vocabulary
            for masked in self._variants:
                self._call(lane, masked)  # compiles
                self._stream.synchronize()
                graph = torch.cuda.CUDAGraph()
                with (
                    own_cublas_workspace(),
                    torch.cuda.graph(graph, pool=self._pool, stream=self._stream),
                ):
                    outputs = self._call(lane, masked)
                lane.graphs[masked] = (graph, outputs)


def _describe(
    precision: Precision, lowering: Lowering, device: str, simulated_parts: tuple[str, ...]
) -> SessionInfo:
    import torch

    if device == "cpu":
        return SessionInfo(
            backend=Backend.TORCH,
            arithmetic="fp32",
            simulated=precision is not Precision.FP32,
            device=cpu_name(),
        )
    executed = lowering.eight_bit_linears or not precision.quantized
    return SessionInfo(
        backend=Backend.TORCH,
        arithmetic=precision.value if executed else "16 bits",
        simulated=not executed,
        device=torch.cuda.get_device_name(device),
        simulated_parts=simulated_parts if executed else (),
    )


def gpu_lowering(precision: Precision, device: str = "cuda:0") -> Lowering:
    """What of a precision a GPU has operations for."""
    import torch

    capability = torch.cuda.get_device_capability(device)
    needed = _FP8_CAPABILITY if precision is Precision.FP8 else _INT8_CAPABILITY
    executes = capability >= needed
    fuses = capability >= _TRITON_CAPABILITY and find_spec("triton") is not None
    return replace(FOR_GPU, eight_bit_linears=executes, fused_quantization=executes and fuses)


@contextmanager
def _refusal_explained(onnx: Path) -> Iterator[None]:
    """Turn whatever a graph trips over that `export` did not write into a refusal of the file."""
    import torch

    try:
        yield
    except (ToolchainError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:
        _LOG.debug("converting %s failed", onnx, exc_info=True)
        reason = " ".join(str(error).split())
        raise BackendError(
            f"torch cannot take '{onnx}': {type(error).__name__}{reason and ': '}{reason}",
            _REBUILD,
        ) from error
