"""Open what a build folder holds as a session, whatever is to execute it."""

from __future__ import annotations

from deploy.artifacts import BuildFolder
from deploy.engine.ort import OrtSession
from deploy.engine.profiles import Profile
from deploy.engine.session import Backend, Precision, Session
from deploy.errors import BackendError


def open_session(
    folder: BuildFolder, precision: Precision, backend: Backend, profiles: tuple[Profile, ...]
) -> Session:
    """Open a model of a build.

    Args:
        folder: The build.
        precision: One that it has.
        backend: What is to execute it.
        profiles: Shapes that the build was made for.

    Raises:
        BackendError: The backend is not available here, or refuses the model.
    """
    if backend is Backend.ONNXRUNTIME:
        return OrtSession(folder.onnx(precision.value), precision, profiles)
    # TensorRT goes here: TrtSession(TrtEngine(*load_plan(folder, precision, target), …)).
    raise BackendError(
        f"--backend {backend.value}: engines cannot be run yet", "use --backend onnxruntime"
    )


def best_backend(folder: BuildFolder, precisions: tuple[Precision, ...]) -> Backend:
    """The backend that executes all of these models for real, or onnxruntime."""
    # TensorRT goes here: a flavour that is installed, and a plan of each precision for this GPU.
    return Backend.ONNXRUNTIME
