"""A TensorRT engine as a session: one stream, buffers allocated once, CUDA graphs."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deploy.engine.buckets import cut, graph_sizes, input_shape, pad_into, pick_profile, write_out
from deploy.engine.device_tensors import (
    can_bind,
    copy_in,
    copy_out,
    deliver,
    empty_output,
    tensor_refusal,
    torch_dtype,
)
from deploy.engine.placement import buffer_bytes
from deploy.engine.profiles import Profile, Shape
from deploy.engine.session import Arrays, Backend, SessionInfo
from deploy.engine.trt_engine import TrtEngine
from deploy.engine.trt_lane import Buffers, Lane, capture, open_lane, request, run_alone
from deploy.errors import BackendError

if TYPE_CHECKING:
    from torch import Tensor


class TrtSession:
    """Runs an engine, from any thread, one call at a time.

    Sessions of one engine run side by side: each has a stream, buffers and execution contexts of
    its own.

    Attributes:
        info: What its numbers are worth.
        profiles: Shapes it accepts, by ascending sequence.
        input_names: The token inputs that it reads.
        stream: The CUDA stream that it works on, as an address.
        graphs_bytes: Device memory that `warmup` took, for graphs and the contexts they need; as
            free memory tells, so exact only where nobody else allocates meanwhile.
    """

    def __init__(self, engine: TrtEngine) -> None:
        """Allocate stream, buffers, and one execution context per profile.

        Raises:
            BackendError: The GPU has too little memory.
            EngineError: TensorRT creates no context: before TensorRT 10, not for a second session.
        """
        self._engine = engine
        self._cuda = engine.cuda
        self.info = SessionInfo(
            backend=Backend(engine.info.flavour.value),
            arithmetic=engine.info.precision.value,
            simulated=False,
            device=self._cuda.device_name(),
        )
        # The engine's indexes, in the order in which buckets are tried.
        self._indexes = sorted(
            range(len(engine.profiles)), key=lambda index: engine.profiles[index].max.sequence
        )
        self.profiles: tuple[Profile, ...] = tuple(engine.profiles[i] for i in self._indexes)
        self.input_names = tuple(tensor.name for tensor in engine.inputs)
        self.graphs_bytes = 0
        self._pads = dict.fromkeys(self.input_names, 0)
        self._pads |= {"input_ids": engine.info.pad_token_id}
        self._lanes: dict[tuple[int, int], Lane] = {}  # by profile and rows of the batch
        self._lock = threading.Lock()
        self._warm = self._closed = False
        with ExitStack() as stack:
            self._allocate(stack)
            self._contexts = [
                stack.enter_context(engine.context(i, self.stream, self._buffers.activations))
                for i in self._indexes
            ]
            self._resources = stack.pop_all()

    def _allocate(self, stack: ExitStack) -> None:
        cuda, engine = self._cuda, self._engine
        self.stream = cuda.create_stream()
        stack.callback(cuda.destroy_stream, self.stream)
        size = max(
            buffer_bytes(engine.inputs, engine.outputs, profile.max) for profile in self.profiles
        )

        def malloc(size: int) -> int:
            address = cuda.malloc(size)
            stack.callback(cuda.free, address)
            return address

        host = cuda.malloc_host(size)
        stack.callback(cuda.free_host, host)
        activations = malloc(max(engine.activation_bytes, 1))
        self._buffers = Buffers(self.stream, malloc(size), host, activations)
        self._events = (cuda.create_event(), cuda.create_event())
        for event in self._events:
            stack.callback(cuda.destroy_event, event)
        # Device memory can be set to a byte, which makes an int64 of 0 and of no other token id.
        self._padding: dict[str, int] = {}
        for tensor in engine.inputs:
            pad = self._pads[tensor.name]
            if pad:
                count = max(each.max.batch * each.max.sequence for each in self.profiles)
                values = host[: count * tensor.dtype.itemsize].view(tensor.dtype)
                values[:] = pad
                self._padding[tensor.name] = malloc(values.nbytes)
                address = self._padding[tensor.name]
                cuda.copy(address, values.ctypes.data, values.nbytes, self.stream)
                cuda.synchronize(self.stream)

    def __enter__(self) -> TrtSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Wait for what was begun, and free everything. Closing again does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._lanes.clear()
            self._contexts.clear()
            with self._resources:
                self._cuda.synchronize(self.stream)

    def warmup(self, batches: Sequence[int] = ()) -> None:
        """Capture CUDA graphs in every profile; see `DeviceSession.warmup`.

        From then on a batch is padded to the next of these sizes. Doing it again does nothing.

        Raises:
            BackendError: Memory does not suffice, or a graph cannot be captured. The session
                remains as it was.
        """
        with self._lock:
            self._check_open()
            if self._warm:
                return
            free = self._cuda.free_memory()
            lanes: dict[tuple[int, int], Lane] = {}
            with ExitStack() as stack:
                for number, profile in enumerate(self.profiles):
                    rows = 1
                    for size in graph_sizes(profile, batches):
                        lane = self._capture(stack, number, Shape(size, profile.max.sequence))
                        if lane.graphs is not None:
                            lanes |= {(number, batch): lane for batch in range(rows, size + 1)}
                        rows = size + 1
                self._resources.enter_context(stack.pop_all())
            self._lanes |= lanes
            self._warm = True
            self.graphs_bytes = free - self._cuda.free_memory()

    def _capture(self, stack: ExitStack, number: int, shape: Shape) -> Lane:
        # A graph is valid as long as its context is as it was when captured: each has its own.
        context = (
            stack.enter_context(
                self._engine.context(
                    self._indexes[number], self.stream, self._buffers.activations, captured=True
                )
            )
            if self._engine.shares_profiles
            else self._contexts[number]
        )
        lane = open_lane(self._engine, context, self._buffers, shape)
        for tensor in lane.placement.inputs:
            tensor.host.fill(self._pads[tensor.name])  # whatever lay there is no token
        return capture(lane, stack)

    def run(
        self, inputs: Arrays, out: Mapping[str, NDArray[Any]] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Run one batch; see `Session.run`."""
        shape = input_shape(inputs, self.input_names)
        targets = out or {}
        with self._lock:
            lane = self._lane(shape)
            for placed in lane.placement.inputs:
                pad_into(placed.host, inputs[placed.name], self._pads[placed.name])
            request(lane)
            self._cuda.synchronize(self.stream)
            found = {}
            for placed in lane.placement.outputs:
                name = placed.name
                values = cut(placed.host, shape, placed.per_token)
                found[name] = (
                    write_out(name, values, targets[name])
                    if name in targets
                    else values.astype(np.float32)
                )
        return found

    def run_device(
        self, inputs: Mapping[str, Tensor], out: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Run one batch of torch tensors on the session's GPU; see `DeviceSession.run_device`."""
        cuda, stream = self._cuda, self.stream
        shape = input_shape(inputs, self.input_names, tensor_refusal(cuda.torch_device))
        before, after = self._events
        with self._lock:
            lane = self._lane(shape)
            # torch's own work comes first, so that the stream waits for it.
            tensors = {
                placed.name: inputs[placed.name].to(torch_dtype(placed.dtype)).contiguous()
                for placed in lane.placement.inputs
            }
            results = {
                placed.name: empty_output(placed, shape, cuda.torch_device)
                for placed in lane.placement.outputs
            }
            current = cuda.torch_stream()
            cuda.record(before, current)
            cuda.wait(stream, before)
            bound = {}
            for placed in lane.placement.inputs:
                tensor = tensors[placed.name]
                if lane.graphs is None and can_bind(tensor, placed):
                    bound[placed.name] = tensor.data_ptr()
                else:
                    copy_in(cuda, stream, tensor, placed, self._padding.get(placed.name))
            run_alone(lane, bound)
            for placed in lane.placement.outputs:
                copy_out(cuda, stream, placed, results[placed.name])
            # torch may give the tensors' memory to others only after this.
            cuda.record(after, stream)
            cuda.wait(current, after)
        return deliver(results, out or {})

    def _check_open(self) -> None:
        if self._closed:
            raise BackendError("the session is closed", "open another one on the engine")

    def _lane(self, shape: Shape) -> Lane:
        """Where a batch runs; every size is laid out once."""
        self._check_open()
        number = pick_profile(self.profiles, shape)
        lane = self._lanes.get((number, shape.batch))
        if lane is None:
            profile = self.profiles[number]
            padded = Shape(max(shape.batch, profile.min.batch), profile.max.sequence)
            lane = open_lane(self._engine, self._contexts[number], self._buffers, padded)
            self._lanes[number, shape.batch] = lane
        return lane
