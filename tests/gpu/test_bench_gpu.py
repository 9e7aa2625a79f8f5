"""The clocks of the benchmark, on a real GPU."""

from __future__ import annotations

import time

import pytest
import torch

from deploy.bench.latency import Clock, CudaTimer, HostTimer
from deploy.bench.probes import device_probes
from deploy.bench.sweep import Contestant
from deploy.bench.tokens import token_sets
from deploy.engine.profiles import Shape

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU and torch")

WHO = Contestant("fp16", "torch-eager", "a GPU", simulated=False, cuda_graph=False)


@pytest.fixture
def work():
    """Matrix products that take several milliseconds."""
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.float16)
    out = torch.empty_like(a)
    return lambda: [torch.mm(a, a, out=out) for _ in range(8)]


def test_the_devices_clock_times_work_that_the_host_only_queues(work):
    work()
    torch.cuda.synchronize()
    device = CudaTimer(torch.cuda.current_stream()).time(work, 10)
    queued = HostTimer().time(work, 10)
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(10):
        work()
    torch.cuda.synchronize()
    wall = time.perf_counter() - began
    assert len(device) == 10
    # Completion to completion: the intervals add up to the wall time, but for starting and waiting.
    assert sum(device) == pytest.approx(wall, rel=0.1)
    assert min(queued) < min(device) / 2


def test_the_devices_clock_leaves_out_the_hosts_way_to_the_first_kernel():
    """Where the GPU keeps up with the queue, a slow host in front of it is not counted."""
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.float16)
    out = torch.empty_like(a)

    def call(pause: float) -> None:
        time.sleep(pause)
        for _ in range(8):
            torch.mm(a, a, out=out)

    timer = CudaTimer(torch.cuda.current_stream())
    timer.time(lambda: call(0.0), 20)  # clocks rise
    prompt = sorted(timer.time(lambda: call(0.0), 20))[10]
    late = sorted(timer.time(lambda: call(prompt / 4), 20))[10]
    assert late == pytest.approx(prompt, rel=0.1)


def test_probes_on_the_device_agree_where_there_is_little_to_launch(work):
    stream = torch.cuda.current_stream()
    fed = []

    def prepare(tensors):
        fed.append(tensors["input_ids"].device.type)
        return work

    inputs = token_sets(Shape(2, 8), vocabulary=10, seed=0)
    host, device = device_probes(WHO, prepare, stream)
    assert (host.timer.clock, device.timer.clock) == (Clock.HOST, Clock.DEVICE)
    seconds = []
    for probe in (host, device):
        call = probe.prepare(inputs)
        probe.timer.time(call, 10)
        seconds.append(sorted(probe.timer.time(call, 20))[10])
    assert set(fed) == {"cuda"}
    # The host's clock adds launching and waking up: tens of microseconds beside milliseconds.
    assert seconds[0] == pytest.approx(seconds[1], rel=0.2)
