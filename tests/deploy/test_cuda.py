"""CUDA's runtime without a GPU: what is called, and what becomes of its errors."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest

from deploy.engine.cuda import CudaRuntime
from deploy.errors import BackendError

OUT_OF_MEMORY, NOT_PERMITTED = 2, 800


def stand_in_runtime(**replaced):
    """`cuda.bindings.runtime`, whose functions answer with what is set for them."""
    runtime = ModuleType("cuda.bindings.runtime")
    runtime.calls = []
    answers = {
        "cudaGetDevice": (0, 3),
        "cudaGetDeviceProperties": (0, SimpleNamespace(name=b"NVIDIA H100\0\0")),
        "cudaGetErrorString": (0, b"operation not permitted"),
        "cudaGetLastError": (0,),
        "cudaMemGetInfo": (0, 1_000_000, 80_000_000_000),
        "cudaStreamBeginCapture": (0,),
        "cudaStreamEndCapture": (0, 11),
        "cudaGraphInstantiateWithFlags": (0, 22),
        "cudaGraphDestroy": (0,),
        "cudaStreamSynchronize": (0,),
    } | replaced

    def function(name):
        def call(*arguments):
            runtime.calls.append((name, *arguments))
            return answers[name]

        return call

    for name in answers:
        setattr(runtime, name, function(name))
    runtime.cudaError_t = SimpleNamespace(cudaErrorMemoryAllocation=OUT_OF_MEMORY)
    runtime.cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)
    return runtime


@pytest.fixture
def opened(monkeypatch):
    def open_runtime(**replaced):
        runtime = stand_in_runtime(**replaced)
        bindings = ModuleType("cuda.bindings")
        bindings.runtime = runtime
        monkeypatch.setitem(sys.modules, "cuda", ModuleType("cuda"))
        monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
        return CudaRuntime(), runtime

    return open_runtime


def test_names_the_gpu_as_torch_and_as_people_do(opened):
    cuda, _ = opened()
    assert cuda.torch_device == "cuda:3"
    assert cuda.device_name() == "NVIDIA H100"
    assert cuda.free_memory() == 1_000_000


@pytest.mark.parametrize("allocate", ["malloc", "malloc_host"])
def test_out_of_memory_says_what_was_asked_for_and_what_is_left(opened, allocate):
    failed = (OUT_OF_MEMORY, None)
    cuda, runtime = opened(cudaMalloc=failed, cudaMallocHost=failed)
    with pytest.raises(BackendError, match=r"5,000,000 bytes, 1,000,000 are free") as error:
        getattr(cuda, allocate)(5_000_000)
    assert "--max-batch" in error.value.remedy
    assert "--buckets" in error.value.remedy
    # Or TensorRT and torch would find the error and take it for one of theirs.
    assert ("cudaGetLastError",) in runtime.calls


def test_error_names_the_call_and_quotes_cuda(opened):
    cuda, _ = opened(cudaStreamSynchronize=(NOT_PERMITTED,))
    with pytest.raises(BackendError, match="cudaStreamSynchronize failed: operation not permitted"):
        cuda.synchronize(5)


def test_capture_gives_an_executable_graph_and_keeps_no_other(opened):
    cuda, runtime = opened()
    runtime.calls.clear()
    assert cuda.capture(5, lambda: runtime.calls.append("work")) == 22
    assert runtime.calls == [
        ("cudaStreamBeginCapture", 5, 1),
        "work",
        ("cudaStreamEndCapture", 5),
        ("cudaGraphInstantiateWithFlags", 11, 0),
        ("cudaGraphDestroy", 11),
    ]


def test_capture_ends_when_the_work_fails(opened):
    cuda, runtime = opened(cudaStreamEndCapture=(NOT_PERMITTED, None))

    def work():
        raise BackendError("no", "nothing")

    with pytest.raises(BackendError, match="no"):
        cuda.capture(5, work)
    assert ("cudaStreamEndCapture", 5) in runtime.calls


def test_missing_package_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(BackendError, match="cuda-bindings is not installed") as error:
        CudaRuntime()
    assert error.value.remedy == "pip install cuda-bindings"


@pytest.fixture
def real():
    """The real package on a machine without a GPU: every call is refused, with its signature."""
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="needs cuda-bindings")
    if not int(runtime.cudaGetDeviceCount()[0]):
        pytest.skip("there is a GPU: tests/gpu covers it")
    cuda = CudaRuntime.__new__(CudaRuntime)
    cuda._runtime, cuda._device = runtime, 0
    return cuda


def test_no_gpu_is_told_by_cudas_own_words(real):
    with pytest.raises(BackendError, match=r"cudaGetDevice failed: .*CUDA error \d+") as error:
        CudaRuntime()
    assert "nvidia-smi" in error.value.remedy


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("device_name", ()),
        ("free_memory", ()),
        ("malloc", (64,)),
        ("free", (4096,)),
        ("malloc_host", (64,)),
        ("copy", (4096, 8192, 64, 0)),
        ("copy_2d", (4096, 64, 8192, 64, 64, 1, 0)),
        ("fill", (4096, 0, 64, 0)),
        ("create_stream", ()),
        ("synchronize", (0,)),
        ("create_event", ()),
        ("create_event", (True,)),
        ("destroy_stream", (4096,)),
        ("record", (4096, 0)),
        ("wait", (0, 4096)),
        ("elapsed_ms", (4096, 4096)),
        ("destroy_event", (4096,)),
        ("capture", (0, lambda: None)),
        ("launch", (4096, 0)),
        ("destroy_graph", (4096,)),
    ],
)
def test_real_package_takes_the_arguments(real, method, arguments):
    # A signature of another version would be a TypeError.
    with pytest.raises(BackendError, match=r"cuda\w+ failed"):
        getattr(real, method)(*arguments)
