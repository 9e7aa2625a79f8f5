"""The few CUDA calls that a session makes.

Addresses, streams, events and graphs are plain integers, as TensorRT and torch take them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from deploy.errors import BackendError


class Cuda(Protocol):
    """A GPU; work on a stream is asynchronous, in the order of the calls.

    Attributes:
        torch_device: What torch calls it, such as "cuda:0".
    """

    torch_device: str

    def device_name(self) -> str:
        """Name of the GPU."""

    def free_memory(self) -> int:
        """Bytes of device memory that nobody holds, in this process or another."""

    def malloc(self, size: int) -> int:
        """Allocate device memory, aligned to 256 bytes at least.

        Raises:
            BackendError: There is not enough of it; the message says how much is free.
        """

    def free(self, address: int) -> None:
        """Give device memory back, after all work on the device is done."""

    def malloc_host(self, size: int) -> NDArray[np.uint8]:
        """Allocate pinned host memory, uint8 [size], zeroed."""

    def free_host(self, memory: NDArray[np.uint8]) -> None:
        """Give pinned memory back; no view of it may be used any more."""

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        """Copy bytes; the addresses tell which side is the host's."""

    def copy_2d(
        self,
        target: int,
        target_pitch: int,
        source: int,
        source_pitch: int,
        width: int,
        height: int,
        stream: int,
    ) -> None:
        """Copy `height` lines of `width` bytes that begin `pitch` bytes apart."""

    def fill(self, address: int, byte: int, size: int, stream: int) -> None:
        """Set bytes of device memory."""

    def create_stream(self) -> int:
        """A stream that does not wait for the legacy default stream."""

    def destroy_stream(self, stream: int) -> None:
        """Destroy a stream."""

    def synchronize(self, stream: int) -> None:
        """Wait until a stream has nothing left to do."""

    def torch_stream(self) -> int:
        """The stream that torch works on in this thread."""

    def create_event(self, timing: bool = False) -> int:
        """An event; only one made for timing can be given to `elapsed_ms`."""

    def destroy_event(self, event: int) -> None:
        """Destroy an event."""

    def record(self, event: int, stream: int) -> None:
        """Make an event stand for all that a stream holds now."""

    def wait(self, stream: int, event: int) -> None:
        """Make a stream, not the host, wait for an event."""

    def elapsed_ms(self, start: int, end: int) -> float:
        """Milliseconds between two events that have both happened."""

    def capture(self, stream: int, work: Callable[[], None]) -> int:
        """Record what `work` puts on a stream, without running it, as a graph to launch.

        Raises:
            BackendError: Something in `work` cannot be captured. The stream remains usable.
        """

    def launch(self, graph: int, stream: int) -> None:
        """Run a graph."""

    def destroy_graph(self, graph: int) -> None:
        """Destroy a graph."""


class CudaRuntime:
    """CUDA's runtime, through NVIDIA's cuda-bindings, on the GPU current when it is made."""

    def __init__(self) -> None:
        """Find the GPU.

        Raises:
            BackendError: cuda-bindings is not installed, or there is no usable GPU.
        """
        self._runtime = _import_runtime()
        self._device: int = self._call("cudaGetDevice")
        self.torch_device = f"cuda:{self._device}"

    def device_name(self) -> str:
        """See `Cuda`."""
        name: bytes = self._call("cudaGetDeviceProperties", self._device).name
        return name.rstrip(b"\0").decode()

    def free_memory(self) -> int:
        """See `Cuda`."""
        free, _ = self._call("cudaMemGetInfo")
        return int(free)

    def malloc(self, size: int) -> int:
        """See `Cuda`."""
        return int(self._call("cudaMalloc", size, wanted=size))

    def free(self, address: int) -> None:
        """See `Cuda`."""
        self._call("cudaFree", address)

    def malloc_host(self, size: int) -> NDArray[np.uint8]:
        """See `Cuda`."""
        address = int(self._call("cudaMallocHost", size, wanted=size))
        memory = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
        memory[:] = 0
        return memory

    def free_host(self, memory: NDArray[np.uint8]) -> None:
        """See `Cuda`."""
        self._call("cudaFreeHost", memory.ctypes.data)

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        """See `Cuda`."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDefault
        self._call("cudaMemcpyAsync", target, source, size, kind, stream)

    def copy_2d(
        self,
        target: int,
        target_pitch: int,
        source: int,
        source_pitch: int,
        width: int,
        height: int,
        stream: int,
    ) -> None:
        """See `Cuda`."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDefault
        call = "cudaMemcpy2DAsync"
        self._call(call, target, target_pitch, source, source_pitch, width, height, kind, stream)

    def fill(self, address: int, byte: int, size: int, stream: int) -> None:
        """See `Cuda`."""
        self._call("cudaMemsetAsync", address, byte, size, stream)

    def create_stream(self) -> int:
        """See `Cuda`."""
        return int(self._call("cudaStreamCreateWithFlags", self._runtime.cudaStreamNonBlocking))

    def destroy_stream(self, stream: int) -> None:
        """See `Cuda`."""
        self._call("cudaStreamDestroy", stream)

    def synchronize(self, stream: int) -> None:
        """See `Cuda`."""
        self._call("cudaStreamSynchronize", stream)

    def torch_stream(self) -> int:
        """See `Cuda`."""
        import torch

        return int(torch.cuda.current_stream(self._device).cuda_stream)

    def create_event(self, timing: bool = False) -> int:
        """See `Cuda`."""
        flags = 0 if timing else self._runtime.cudaEventDisableTiming
        return int(self._call("cudaEventCreateWithFlags", flags))

    def destroy_event(self, event: int) -> None:
        """See `Cuda`."""
        self._call("cudaEventDestroy", event)

    def record(self, event: int, stream: int) -> None:
        """See `Cuda`."""
        self._call("cudaEventRecord", event, stream)

    def wait(self, stream: int, event: int) -> None:
        """See `Cuda`."""
        self._call("cudaStreamWaitEvent", stream, event, 0)

    def elapsed_ms(self, start: int, end: int) -> float:
        """See `Cuda`."""
        return float(self._call("cudaEventElapsedTime", start, end))

    def capture(self, stream: int, work: Callable[[], None]) -> int:
        """See `Cuda`."""
        # Thread-local: other threads may allocate meanwhile.
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream, mode)
        try:
            work()
        except BaseException:
            # Ends the capture, so that the stream works again; what became of it is no matter.
            self._runtime.cudaStreamEndCapture(stream)
            self._runtime.cudaGetLastError()
            raise
        graph = self._call("cudaStreamEndCapture", stream)
        try:
            # Unlike cudaGraphInstantiate's, its signature is that of CUDA 11.4 to this day.
            return int(self._call("cudaGraphInstantiateWithFlags", graph, 0))
        finally:
            self._call("cudaGraphDestroy", graph)

    def launch(self, graph: int, stream: int) -> None:
        """See `Cuda`."""
        self._call("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: int) -> None:
        """See `Cuda`."""
        self._call("cudaGraphExecDestroy", graph)

    def _call(self, name: str, *arguments: Any, wanted: int | None = None) -> Any:
        """Call the runtime, which answers with a tuple that begins with the error code.

        Args:
            name: Of the function.
            arguments: Of the function.
            wanted: Bytes that an allocation asks for.

        Returns:
            Nothing, the one result, or a tuple of them.
        """
        code, *results = getattr(self._runtime, name)(*arguments)
        if int(code) != 0:
            raise self._error(name, code, wanted)
        if len(results) == 1:
            return results[0]
        return tuple(results) or None

    def _error(self, name: str, code: Any, wanted: int | None) -> BackendError:
        # Also clears the thread's last error, which TensorRT or torch would take for their own.
        self._runtime.cudaGetLastError()
        if wanted is not None and code == self._runtime.cudaError_t.cudaErrorMemoryAllocation:
            failed, free, _ = self._runtime.cudaMemGetInfo()
            left = "an unknown number" if int(failed) else f"{free:,}"
            return BackendError(
                f"out of memory: {name} was asked for {wanted:,} bytes, {left} are free on the GPU",
                "build with a smaller --max-batch or fewer --buckets, or free memory on the GPU",
            )
        _, text = self._runtime.cudaGetErrorString(code)
        return BackendError(
            f"{name} failed: {text.decode()} (CUDA error {int(code)})",
            "see what `nvidia-smi` says of GPU and driver; --backend onnxruntime needs neither",
        )


def _import_runtime() -> Any:
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise BackendError(
            f"NVIDIA's cuda-bindings is not installed: {error}", "pip install cuda-bindings"
        ) from error
    return runtime
