"""The engine's own graph on torch: 8-bit tensor cores where TensorRT is missing.

On a GPU the graph is compiled, its 8-bit linears are 8-bit GEMMs, and CUDA graphs replay it. On the
CPU the same graph runs node by node in FP32 arithmetic, as onnxruntime has it.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from calib_data.cache import cache_folder
from deploy.engine.buckets import cut, graph_sizes, input_shape, pad_into, per_token, pick_profile
from deploy.engine.buckets import write_out
from deploy.engine.device_tensors import deliver, tensor_refusal
from deploy.engine.profiles import Profile, Shape
from deploy.engine.session import Arrays, Backend, Precision, SessionInfo
from deploy.engine.torch_graph import AS_WRITTEN, FOR_GPU, Lowering, convert
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
            BackendError: The graph has an operator that no exported graph has, or the GPU has too
                little memory.
        """
        import torch

        self._device = device or ("cuda:0" if torch.cuda.is_available() else "cpu")
        self._gpu = self._device != "cpu"
        self.profiles = profiles
        model = read_onnx(onnx)
        if not self._gpu and precision is not Precision.FP32:
            # As onnxruntime has it: the CPU has no 16-bit arithmetic to speak of.
            cast_floats(model, FloatType.FP32)
        lowering = lowering or (_lowering(precision, self._device) if self._gpu else AS_WRITTEN)
        with _memory_explained():
            graph = convert(model, lowering, self._device)
        self.input_names = graph.input_names
        self._output_names = graph.output_names
        tokens, outputs = model.graph.inputs[0].shape, model.graph.outputs
        self._per_token = tuple(
            per_token([str(size) for size in value.shape or ()], [str(size) for size in tokens or ()])
            for value in outputs
        )
        self._pads = dict.fromkeys(self.input_names, 0) | {"input_ids": pad_token_id}
        eight_bit = precision.quantized and lowering.eight_bit_linears
        self.info = SessionInfo(
            backend=Backend.TORCH,
            arithmetic=precision.value if self._gpu and (eight_bit or not precision.quantized)
            else ("fp16" if self._gpu else "fp32"),
            simulated=precision.quantized and not eight_bit
            or (not self._gpu and precision is not Precision.FP32),
            device=torch.cuda.get_device_name(self._device) if self._gpu else cpu_name(),
            simulated_parts=graph.simulated,
        )
        self._modules: dict[bool, Callable[..., tuple[Tensor, ...]]] = {
            True: graph.module,
            False: graph.unmasked,
        }
        self.stream, self.graphs_bytes = 0, 0
        self._lanes: dict[Shape, _Lane] = {}
        self._sizes: dict[int, tuple[int, ...]] = {}
        self._lock = threading.Lock()
        if self._gpu:
            self._modules = {key: _compiled(each) for key, each in self._modules.items()}
            self._stream = torch.cuda.Stream(self._device)
            self.stream = self._stream.cuda_stream
            self._pool = torch.cuda.graph_pool_handle()

    def warmup(self) -> None:
        """Compile, and capture CUDA graphs for 1, 2, 4, … rows; see `DeviceSession.warmup`."""
        import torch

        if not self._gpu:
            return
        with self._lock, _memory_explained():
            free = torch.cuda.mem_get_info(self._device)[0]
            for profile in reversed(self.profiles):
                sizes = tuple(graph_sizes(profile))
                for size in reversed(sizes):
                    self._capture(self._lane(Shape(size, profile.max.sequence)))
                self._sizes[profile.max.sequence] = sizes
            torch.cuda.synchronize(self._device)
            self.graphs_bytes = max(free - torch.cuda.mem_get_info(self._device)[0], 0)

    def run(
        self, inputs: Arrays, out: Mapping[str, NDArray[Any]] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Run one batch; see `Session.run`."""
        import torch

        shape = input_shape(inputs, self.input_names)
        padded = self._padded(shape)
        masked = shape.sequence != padded.sequence or not bool(inputs["attention_mask"].all())
        with self._lock, torch.inference_mode(), _memory_explained():
            lane = self._lane(padded)
            for target, name in zip(lane.host.numpy(), self.input_names, strict=True):
                pad_into(target, inputs[name], self._pads[name])
            values = self._to_host(lane, masked) if self._gpu else self._modules[masked](*lane.host)
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
        with self._lock, torch.inference_mode(), _memory_explained():
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

    def close(self) -> None:
        """Free graphs and buffers."""
        with self._lock:
            self._lanes.clear()

    def _padded(self, shape: Shape) -> Shape:
        profile = self.profiles[pick_profile(self.profiles, shape)]
        sequence = profile.max.sequence if self._gpu else shape.sequence
        sizes = self._sizes.get(sequence, ())
        rows = next((size for size in sizes if size >= shape.batch), shape.batch)
        return Shape(rows, sequence)

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
            return self._modules[masked](*lane.device)
        graph, outputs = captured
        graph.replay()
        return outputs

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
            lane.device.fill_(1)  # tokens, all real
            for masked, module in self._modules.items():
                module(*lane.device)  # compiles, and lets libraries allocate what they keep
                self._stream.synchronize()
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                    outputs = module(*lane.device)
                lane.graphs[masked] = (graph, outputs)


def _lowering(precision: Precision, device: str) -> Lowering:
    """What of a precision a GPU has operations for."""
    import torch

    capability = torch.cuda.get_device_capability(device)
    needed = _FP8_CAPABILITY if precision is Precision.FP8 else _INT8_CAPABILITY
    return replace(FOR_GPU, eight_bit_linears=capability >= needed)


def _compiled(module: Callable[..., tuple[Tensor, ...]]) -> Callable[..., tuple[Tensor, ...]]:
    """Let torch fuse what lies between the GEMMs; kernels are kept in the user's cache folder."""
    import torch

    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "inductor"))
    return torch.compile(module, dynamic=False)


@contextmanager
def _memory_explained() -> Iterator[None]:
    import torch

    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise BackendError(
            f"the GPU has too little memory: {str(error).splitlines()[0]}",
            "use a smaller --max-batch or fewer --buckets, or free the GPU",
        ) from error
