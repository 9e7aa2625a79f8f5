"""How a session is timed: on the host's clock, and on the device's where it works on a GPU."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING, Any, TypeGuard, cast

from deploy.bench.latency import CudaTimer, HostTimer
from deploy.bench.sweep import Contestant, Probe
from deploy.engine.session import Arrays, DeviceSession, Precision, Session

if TYPE_CHECKING:
    import torch

_LOG = logging.getLogger(__name__)

# Takes CUDA tensors by input name; returns the call that runs them, without waiting for it.
PrepareOnDevice = Callable[[Mapping[str, "torch.Tensor"]], Callable[[], object]]


def on_gpu(session: Session) -> TypeGuard[DeviceSession]:
    """Whether a session works on a GPU."""
    return bool(getattr(session, "stream", 0))  # a session on the CPU has none, or 0


def session_probes(
    session: Session, precision: Precision, cuda_graph: bool, batches: Sequence[int] = ()
) -> tuple[Probe, ...]:
    """Every way of timing a session.

    Args:
        session: Freshly opened.
        precision: Of its model.
        cuda_graph: Whether to let it capture its graphs; a session on the CPU has none.
        batches: Batch sizes that will be measured; without any, it captures all it would serve.
    """
    contestant = Contestant(
        precision=precision.value,
        backend=session.info.backend.value,
        device=session.info.device,
        simulated=session.info.simulated,
        cuda_graph=on_gpu(session) and cuda_graph,
    )
    on_host = host_probe(contestant, session.run)
    if not on_gpu(session):
        return (on_host,)
    import torch

    if cuda_graph:
        session.warmup(batches)
    if not torch.cuda.is_available():
        _LOG.warning("this torch has no CUDA: only the host's clock can be read")
        return (on_host,)
    run_device, cuda = session.run_device, cast(Any, torch.cuda)  # partly untyped
    return (
        on_host,
        *device_probes(
            contestant,
            lambda tensors: partial(run_device, tensors),
            cuda.ExternalStream(session.stream),
        ),
    )


def host_probe(contestant: Contestant, run: Callable[[Arrays], object]) -> Probe:
    """The host's clock around a call with arrays in the host's memory, outputs included."""
    return Probe(
        contestant,
        host_copies=True,
        timer=HostTimer(),
        prepare=lambda inputs: _in_turn([partial(run, each) for each in inputs]),
    )


def device_probes(
    contestant: Contestant, prepare: PrepareOnDevice, stream: torch.cuda.Stream
) -> tuple[Probe, Probe]:
    """Both clocks for a call whose inputs are on the GPU, where its outputs stay.

    Args:
        contestant: Whose call it is.
        prepare: Makes the call.
        stream: Where its work goes.
    """
    import torch

    def calls(inputs: Sequence[Arrays]) -> list[Callable[[], object]]:
        moved = [{k: torch.from_numpy(v).cuda() for k, v in each.items()} for each in inputs]
        torch.cuda.synchronize()
        return [prepare(tensors) for tensors in moved]

    def and_wait(call: Callable[[], object]) -> None:
        call()
        stream.synchronize()

    return (
        Probe(
            contestant,
            host_copies=False,
            timer=HostTimer(),
            prepare=lambda inputs: partial(and_wait, _in_turn(calls(inputs))),
        ),
        Probe(
            contestant,
            host_copies=False,
            timer=CudaTimer(stream),
            prepare=lambda inputs: _in_turn(calls(inputs)),
        ),
    )


def _in_turn(calls: Sequence[Callable[[], object]]) -> Callable[[], object]:
    turns = cycle(calls)
    return lambda: next(turns)()
