"""Sessions on a GPU, every backend by the same tests: `make test-gpu`.

A backend is a function in `BACKENDS`: it opens a session of a model, or skips with the reason why
it cannot run here.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from checkpoints import save_random_checkpoint

from calib_data.tasks import Head, get_task
from deploy.engine.builder import EngineSpec, Flavour, build_engine, installed_flavours
from deploy.engine.cuda import Cuda, CudaRuntime
from deploy.engine.ort import OrtSession
from deploy.engine.plan import PlanInfo
from deploy.engine.profiles import bucket_profiles
from deploy.engine.session import DeviceSession, Precision
from deploy.engine.torch_session import TorchSession
from deploy.engine.trt_engine import TrtEngine
from deploy.engine.trt_session import TrtSession
from deploy.environment import gpu_names, gpu_targets
from deploy.errors import EngineError
from export.checkpoint import load_checkpoint
from export.onnx_export import export_onnx
from export.onnx_file import read_onnx, write_onnx
from export.precision import FloatType, cast_floats

PROFILES = bucket_profiles((32, 64), max_batch=6)
TASKS = {Head.SEQUENCE_CLASSIFICATION: "sst2", Head.QUESTION_ANSWERING: "squad"}
PAD = 0

Open = Callable[[Head], DeviceSession]


@pytest.fixture(scope="session")
def cuda() -> Cuda:
    if not gpu_names():
        pytest.skip("needs an NVIDIA GPU: nvidia-smi reports none")
    if importlib.util.find_spec("cuda") is None:
        pytest.skip("needs cuda-bindings: pip install cuda-bindings")
    return CudaRuntime()


@pytest.fixture(scope="session")
def models(cuda, tmp_path_factory) -> dict[Head, Path]:
    """A random BERT of 2 layers in FP16, by head."""
    found = {}
    for head, task in TASKS.items():
        folder = tmp_path_factory.mktemp(task)
        answers = head is Head.QUESTION_ANSWERING
        save_random_checkpoint(folder, hidden=128, question_answering=answers)
        path = folder / "fp16.onnx"
        write_onnx(export_onnx(load_checkpoint(str(folder), get_task(task)), head), path)
        model = read_onnx(path)
        cast_floats(model, FloatType.FP16)
        write_onnx(model, path)
        found[head] = path
    return found


@pytest.fixture(scope="session")
def reference(models) -> Callable[[Head], OrtSession]:
    """The same model on the CPU, in FP32 arithmetic."""
    return cache(lambda head: OrtSession(models[head], Precision.FP16, PROFILES, PAD))


@cache
def trt_engine(flavour: Flavour, onnx: Path, cuda: Cuda) -> TrtEngine | str:
    """An engine, or the reason why there can be none."""
    if flavour not in installed_flavours():
        return f"needs {flavour.value}: pip install {flavour.package}"
    try:
        built = build_engine(EngineSpec(onnx, flavour, PROFILES, None))
        info = PlanInfo(
            sha256=hashlib.sha256(built.plan).hexdigest(),
            bytes=len(built.plan),
            precision=Precision.FP16,
            recipe=None,
            flavour=flavour,
            tensorrt_version=built.version,
            target=gpu_targets()[0],
            gpu=cuda.device_name(),
            driver=None,
            profiles=PROFILES,
            pad_token_id=PAD,
        )
        return TrtEngine(built.plan, info, cuda)
    except EngineError as error:
        # TensorRT for RTX does not run on datacenter GPUs; all else is a failure.
        if flavour is Flavour.TENSORRT_RTX and "compute capability" in error.message:
            return f"{flavour.value} does not run on this GPU: {error.message}"
        raise


def open_trt(flavour: Flavour, onnx: Path, cuda: Cuda) -> TrtSession:
    engine = trt_engine(flavour, onnx, cuda)
    if isinstance(engine, str):
        pytest.skip(engine)
    return TrtSession(engine)


def open_torch(onnx: Path, _cuda: Cuda) -> TorchSession:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA build of torch")
    return TorchSession(onnx, Precision.FP16, PROFILES, PAD)


BACKENDS = {flavour.value: partial(open_trt, flavour) for flavour in Flavour} | {
    "torch": open_torch
}


@pytest.fixture(params=BACKENDS)
def open_session(request, cuda, models) -> Iterator[Open]:
    """Opens sessions of a model, each new, and closes them after the test."""
    with ExitStack() as stack:
        yield lambda head: stack.enter_context(BACKENDS[request.param](models[head], cuda))
