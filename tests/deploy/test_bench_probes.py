from __future__ import annotations

import numpy as np
import pytest
import torch
from bench_fakes import FakeClock

from deploy.bench.latency import Clock
from deploy.bench.probes import session_probes
from deploy.bench.tokens import token_sets
from deploy.engine.profiles import Shape
from deploy.engine.session import Backend, Precision, SessionInfo


class HostSession:
    def __init__(self, simulated=False):
        self.info = SessionInfo(Backend.ONNXRUNTIME, "fp32", simulated, "a processor")
        self.profiles = ()
        self.input_names = ("input_ids",)
        self.fed = []

    def run(self, inputs, out=None):
        self.fed.append(inputs["input_ids"])
        return {}


class GpuSession(HostSession):
    stream = 1
    graphs_bytes = 0

    def warmup(self, batches=()):
        self.graphs_bytes = 1

    def run_device(self, inputs, out=None):
        return {}


def test_a_session_is_timed_as_a_caller_uses_it_with_each_input_set_in_turn():
    session = HostSession(simulated=True)
    (probe,) = session_probes(session, Precision.FP8, cuda_graph=True)
    assert (probe.timer.clock, probe.host_copies) == (Clock.HOST, True)
    who = probe.contestant
    assert (who.precision, who.backend, who.simulated) == ("fp8", "onnxruntime", True)
    assert who.cuda_graph is False  # there is none on the CPU, whatever was asked for
    inputs = token_sets(Shape(2, 8), vocabulary=10, seed=0)
    FakeClock().timer().time(probe.prepare(inputs), 2 * len(inputs))
    expected = [each["input_ids"] for each in inputs] * 2
    assert all(np.array_equal(a, b) for a, b in zip(session.fed, expected, strict=True))


@pytest.mark.skipif(torch.cuda.is_available(), reason="its stream is not a real one")
@pytest.mark.parametrize("cuda_graph", [True, False])
def test_graphs_are_captured_before_anything_is_timed_and_only_if_asked_for(cuda_graph):
    session = GpuSession()
    (probe,) = session_probes(session, Precision.FP8, cuda_graph)
    assert probe.contestant.cuda_graph is cuda_graph
    assert bool(session.graphs_bytes) is cuda_graph
