"""CUDA's runtime as a session uses it, on a GPU."""

from __future__ import annotations

import re

import numpy as np
import pytest

from deploy.errors import BackendError


@pytest.fixture
def stream(cuda):
    stream = cuda.create_stream()
    yield stream
    cuda.destroy_stream(stream)


@pytest.fixture
def memory(cuda):
    """A kilobyte of each kind."""
    device, host = cuda.malloc(1024), cuda.malloc_host(1024)
    yield device, host
    cuda.free(device)
    cuda.free_host(host)


def test_copies_fills_and_lines(cuda, stream, memory):
    device, host = memory
    address = host.ctypes.data
    host[:512] = np.arange(512) % 251
    cuda.copy(device, address, 512, stream)
    cuda.fill(device + 512, 7, 512, stream)
    # 4 lines of 8 bytes, 16 apart, packed behind the rest.
    cuda.copy_2d(device + 512, 8, device, 16, 8, 4, stream)
    cuda.copy(address, device, 1024, stream)
    cuda.synchronize(stream)
    lines = (np.arange(512) % 251)[:64].reshape(4, 16)[:, :8]
    np.testing.assert_array_equal(host[512:544], lines.ravel())
    assert (host[544:] == 7).all()


def test_graph_replays_on_what_the_buffers_hold(cuda, stream, memory):
    device, host = memory
    address = host.ctypes.data

    def work():
        cuda.copy(device, address, 512, stream)
        cuda.copy(address + 512, device, 512, stream)

    graph = cuda.capture(stream, work)
    for value in (3, 5):
        host[:512] = value
        cuda.launch(graph, stream)
        cuda.synchronize(stream)
        assert (host[512:] == value).all()
    cuda.destroy_graph(graph)


def test_stream_works_after_a_failed_capture(cuda, stream, memory):
    device, host = memory

    def work():
        cuda.synchronize(stream)  # not permitted while capturing

    with pytest.raises(BackendError, match="cudaStreamSynchronize failed"):
        cuda.capture(stream, work)
    cuda.fill(device, 9, 1024, stream)
    cuda.copy(host.ctypes.data, device, 1024, stream)
    cuda.synchronize(stream)
    assert (host == 9).all()


def test_events_order_streams_and_tell_time(cuda, stream, memory):
    device, _ = memory
    start, end = cuda.create_event(timing=True), cuda.create_event(timing=True)
    other = cuda.create_stream()
    cuda.record(start, stream)
    cuda.fill(device, 1, 1024, stream)
    cuda.record(end, stream)
    cuda.wait(other, end)
    cuda.synchronize(other)
    assert cuda.elapsed_ms(start, end) > 0
    for event in (start, end):
        cuda.destroy_event(event)
    cuda.destroy_stream(other)


def test_out_of_memory_says_how_much_there_is_and_harms_nothing(cuda, memory):
    asked = 1 << 50
    with pytest.raises(BackendError, match=re.escape(f"{asked:,} bytes")) as error:
        cuda.malloc(asked)
    assert re.search(r", [\d,]+ are free on the GPU", error.value.message)
    cuda.free(cuda.malloc(1024))
