"""One padded shape of a TensorRT session: enqueue it, or capture it in CUDA graphs.

Of TensorRT's execution context, only calls that exist from 8.6 on.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.engine.placement import Placement, place
from deploy.engine.profiles import Shape
from deploy.engine.trt_engine import TrtEngine
from deploy.errors import BackendError

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Buffers:
    """What the lanes of a session share.

    Attributes:
        stream: The stream that everything runs on.
        device: Address of the buffer for inputs and outputs.
        host: The same in pinned memory, uint8 [bytes].
        activations: Address of the memory that execution contexts work in.
    """

    stream: int
    device: int
    host: NDArray[np.uint8]
    activations: int


@dataclass(frozen=True)
class Graphs:
    """CUDA graphs of one padded shape.

    Attributes:
        request: Copies the inputs to the device, runs, and copies the outputs to the host.
        alone: Runs.
    """

    request: int
    alone: int


@dataclass(frozen=True)
class Lane:
    """All that a padded shape needs to run.

    Attributes:
        engine: The engine.
        context: An execution context on a profile that holds the shape.
        stream: The stream that it runs on.
        shape: Rows and tokens, padding included.
        placement: Where inputs and outputs lie.
        graphs: What was captured; None if the shape is enqueued.
    """

    engine: TrtEngine
    context: Any
    stream: int
    shape: Shape
    placement: Placement
    graphs: Graphs | None = None


def open_lane(engine: TrtEngine, context: Any, buffers: Buffers, shape: Shape) -> Lane:
    """Lay a shape out in the session's buffers.

    Raises:
        BackendError: The context refuses the shape, or writes other outputs than were laid out.
    """
    placement = place(engine.inputs, engine.outputs, shape, buffers.device, buffers.host)
    lane = Lane(engine, context, buffers.stream, shape, placement)
    bind(lane, {})
    for tensor in placement.outputs:
        # It writes as many bytes as it says, wherever the next tensor begins.
        found = tuple(context.get_tensor_shape(tensor.name))
        if found != tensor.shape:
            raise BackendError(
                f"the engine writes '{tensor.name}' as {found} where {tensor.shape} was expected",
                "build it from a checkpoint with `deploy build`",
            )
    return lane


def request(lane: Lane) -> None:
    """Copy the inputs to the device, run, copy the outputs to the host: asynchronously."""
    if lane.graphs is not None:
        lane.engine.cuda.launch(lane.graphs.request, lane.stream)
    else:
        bind(lane, {})
        _copy_and_execute(lane)


def run_alone(lane: Lane, addresses: Mapping[str, int]) -> None:
    """Run on inputs that are on the device already: asynchronously.

    Args:
        lane: The shape.
        addresses: Of inputs that are elsewhere than in the session's buffer, by name; graphs
            cannot read them.
    """
    if lane.graphs is not None:
        lane.engine.cuda.launch(lane.graphs.alone, lane.stream)
    else:
        bind(lane, addresses)
        _execute(lane)


def bind(lane: Lane, addresses: Mapping[str, int]) -> None:
    """Tell the context shapes and addresses, all of them: another lane may have used it last."""
    context = lane.context
    dims = (lane.shape.batch, lane.shape.sequence)
    for tensor in lane.placement.inputs:
        name = tensor.name
        if not (
            context.set_input_shape(name, dims)
            and context.set_tensor_address(name, addresses.get(name, tensor.address))
        ):
            raise _refused(lane, f"input '{name}' of {dims[0]} x {dims[1]} tokens")
    for tensor in lane.placement.outputs:
        if not context.set_tensor_address(tensor.name, tensor.address):
            raise _refused(lane, f"an address for the output '{tensor.name}'")


def capture(lane: Lane, stack: ExitStack) -> Lane:
    """Capture a lane, whose context must have no other use as long as its graphs live.

    Args:
        lane: A lane without graphs, the session's stream being idle.
        stack: Destroys the graphs.

    Returns:
        The lane with graphs that have run once; without, where TensorRT says that this engine
        cannot be captured.

    Raises:
        BackendError: The engine does not run, or the graphs cannot be made.
    """
    cuda = lane.engine.cuda
    # TensorRT sets itself up in the first run after a change of shape, which no capture survives.
    request(lane)
    cuda.synchronize(lane.stream)
    capturable = getattr(lane.context, "is_stream_capturable", None)  # TensorRT for RTX only
    if capturable is not None and not capturable(lane.stream):
        _LOG.warning("%d x %d runs without a CUDA graph", lane.shape.batch, lane.shape.sequence)
        return lane
    made = []
    for work in (_copy_and_execute, _execute):
        made.append(cuda.capture(lane.stream, partial(work, lane)))
        stack.callback(cuda.destroy_graph, made[-1])
        # The first launch uploads the graph.
        cuda.launch(made[-1], lane.stream)
        cuda.synchronize(lane.stream)
    return replace(lane, graphs=Graphs(*made))


def _copy_and_execute(lane: Lane) -> None:
    copy = lane.engine.cuda.copy
    there, back = lane.placement.to_device, lane.placement.to_host
    copy(there.device, there.host, there.size, lane.stream)
    _execute(lane)
    copy(back.host, back.device, back.size, lane.stream)


def _execute(lane: Lane) -> None:
    if not lane.context.execute_async_v3(lane.stream):
        raise _refused(lane, "to run")


def _refused(lane: Lane, what: str) -> BackendError:
    return BackendError(
        f"TensorRT refuses {what}: {lane.engine.last_error()}",
        "look for earlier messages with --log-level debug; `deploy doctor` shows GPU and driver",
    )
