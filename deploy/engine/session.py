"""What every backend looks like to evaluation, benchmark and report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from numpy.typing import NDArray

from deploy.engine.profiles import Profile

Arrays = Mapping[str, NDArray[Any]]


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


@dataclass(frozen=True)
class SessionInfo:
    """What a session's numbers are worth.

    Attributes:
        backend: What executes the graph.
        arithmetic: The type that products are computed in.
        simulated: Whether the graph's own types are only imitated: 8-bit codes, or FP16 weights,
            that are multiplied in `arithmetic`.
        device: Name of the processor.
    """

    backend: Backend
    arithmetic: str
    simulated: bool
    device: str


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

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Run one batch.

        Args:
            inputs: int64 [batch, sequence] by input name; names the model does not read are
                ignored. The shape must fit one of `profiles`.

        Returns:
            FP32 outputs by name, with as many rows as the inputs.
        """
