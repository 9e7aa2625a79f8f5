"""What every backend looks like to evaluation, benchmark and report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from deploy.engine.profiles import Profile

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

Arrays: TypeAlias = "Mapping[str, NDArray[Any]]"


class Precision(str, Enum):
    """A precision that a model is built and judged in."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"
    FP8 = "fp8"

    @property
    def calibrated(self) -> bool:
        """Whether it needs calibration: 8 bits for scales, FP16 to know what outgrows it."""
        return self is not Precision.FP32

    @property
    def quantized(self) -> bool:
        """Whether the graph carries Q/DQ nodes."""
        return self in {Precision.INT8, Precision.FP8}


class Backend(str, Enum):
    """What executes a model."""

    ONNXRUNTIME = "onnxruntime"
    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt-rtx"
    TORCH = "torch"


@dataclass(frozen=True)
class SessionInfo:
    """What a session's numbers are worth.

    Attributes:
        backend: What executes the graph.
        arithmetic: The type that products are computed in.
        simulated: Whether the graph's own types are only imitated: 8-bit codes, or FP16 weights,
            that are multiplied in `arithmetic`.
        device: Name of the processor.
        simulated_parts: What is quantized in the graph and computed otherwise, though the rest is
            executed as it is; empty where everything is, or nothing.
    """

    backend: Backend
    arithmetic: str
    simulated: bool
    device: str
    simulated_parts: tuple[str, ...] = ()


class Session(Protocol):
    """A model that can be run.

    Attributes:
        info: What its numbers are worth.
        profiles: Shapes it accepts, by ascending sequence.
        input_names: The token inputs that it reads.
    """

    info: SessionInfo
    profiles: tuple[Profile, ...]
    input_names: tuple[str, ...]

    def run(
        self, inputs: Arrays, out: Mapping[str, NDArray[Any]] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Run one batch, padded to the smallest bucket that holds it.

        Args:
            inputs: Integer [batch, sequence] by input name; names the model does not read are
                ignored.
            out: Arrays to write outputs into, by name, for callers that reuse theirs; outputs
                that it does not name are new arrays.

        Returns:
            FP32 outputs by name, without the rows and columns that were padded: [batch, …], or
            [batch, sequence] of a head that answers per token.

        Raises:
            BackendError: The batch fits no profile, an input is missing or of the wrong type.
        """


class DeviceSession(Session, Protocol):
    """A session on a GPU.

    Attributes:
        stream: The CUDA stream that it works on, as an address.
        graphs_bytes: Device memory that captured CUDA graphs take; 0 before `warmup`.
    """

    stream: int
    graphs_bytes: int

    def close(self) -> None:
        """Free what the session holds on the GPU; it cannot run any more."""

    def warmup(self, batches: Sequence[int] = ()) -> None:
        """Capture CUDA graphs in every profile. Nothing is ever captured inside `run`.

        Args:
            batches: The batch sizes to capture for, as far as a profile has them; without any,
                1, 2, 4, … and the largest.
        """

    def run_device(
        self, inputs: Mapping[str, Tensor], out: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Run one batch of torch CUDA tensors; as `run`, without a copy to the host.

        The work is ordered after what the current torch stream holds, and the current stream
        waits for it; the host does not.
        """
