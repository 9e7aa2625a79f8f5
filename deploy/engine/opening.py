"""Open what a build folder holds as a session, whatever is to execute it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from deploy.artifacts import BuildFolder, check_listed, read_manifest
from deploy.engine.builder import Flavour, installed_flavours
from deploy.engine.cuda import CudaRuntime
from deploy.engine.ort import OrtSession
from deploy.engine.plan import claimed_flavour, load_plan
from deploy.engine.profiles import Profile
from deploy.engine.session import Backend, Precision, Session
from deploy.engine.torch_session import TorchSession
from deploy.engine.trt_engine import TrtEngine
from deploy.engine.trt_session import TrtSession
from deploy.environment import find_gpus
from deploy.errors import BackendError


def open_session(
    folder: BuildFolder,
    precision: Precision,
    backend: Backend,
    profiles: tuple[Profile, ...],
    pad_token_id: int = 0,
) -> Session:
    """Open a model of a build.

    Args:
        folder: The build.
        precision: One that it has.
        backend: What is to execute it.
        profiles: Shapes that the build was made for; an engine has its own.
        pad_token_id: What `input_ids` are padded with; an engine has its own.

    Raises:
        BackendError: The backend is not available here, or refuses the model.
        PlanError: The engine is damaged, or of another machine.
        BuildFolderError: The ONNX model is not what the manifest lists.
    """
    if backend is Backend.ONNXRUNTIME:
        return OrtSession(_listed_onnx(folder, precision), precision, profiles, pad_token_id)
    if backend is Backend.TORCH:
        return TorchSession(_listed_onnx(folder, precision), precision, profiles, pad_token_id)
    target = _target()
    if target is None:
        raise BackendError(
            f"--backend {backend.value} needs an NVIDIA GPU, and none is visible",
            "use --backend onnxruntime here",
        )
    info, plan = load_plan(folder, precision, target)
    if info.flavour is not Flavour(backend.value):
        raise BackendError(
            f"the {precision.value} engine of '{folder.path}' is {info.flavour.value}'s",
            f"use --backend {info.flavour.value}, or build with --engine {backend.value}",
        )
    return TrtSession(TrtEngine(plan, info, CudaRuntime()))


def best_backend(folder: BuildFolder, precisions: Iterable[Precision]) -> Backend:
    """What executes all of these models for real, TensorRT before torch, or else onnxruntime."""
    target = _target()
    if target is None:
        return Backend.ONNXRUNTIME
    flavours = {claimed_flavour(folder, precision, target) for precision in precisions}
    # One backend runs them all. What TensorRT for RTX has built for a target it also runs there.
    for flavour in installed_flavours():
        if flavours == {flavour}:
            return Backend(flavour.value)
    return Backend.TORCH if _torch_has_cuda() else Backend.ONNXRUNTIME


def _listed_onnx(folder: BuildFolder, precision: Precision) -> Path:
    """The ONNX model, once it and the weights beside it are known to be the build's."""
    path = folder.onnx(precision.value)
    manifest = read_manifest(folder)
    check_listed(folder, manifest, path)
    weights = path.with_name(f"{path.name}.data")
    if weights.exists():  # of a model too large for one file
        check_listed(folder, manifest, weights)
    return path


def _target() -> str | None:
    gpus = find_gpus()
    return gpus[0].target if gpus else None


def _torch_has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()
