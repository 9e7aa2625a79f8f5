"""A virtual environment for modelopt.onnx, which needs other versions of onnx and onnxruntime."""

from __future__ import annotations

import os
import subprocess
import venv
from importlib.metadata import requires, version
from pathlib import Path

from packaging.requirements import Requirement

from calib_data.progress import Progress

_MODELOPT = "nvidia-modelopt"


def make_environment(folder: Path, progress: Progress) -> Path:
    """Make an environment that runs modelopt.onnx without a GPU, unless it is there.

    It gets the modelopt that is installed here and what its [onnx] extra lists, but onnxruntime for
    onnxruntime-gpu, and no cupy, which only INT4 uses: both need CUDA libraries to be of any use.
    torch is of the version and build that is installed here, not a CUDA build of 5 GB.

    Returns:
        The environment's Python.
    """
    python = folder / "bin" / "python"
    if not python.is_file():
        with progress.status(f"Making {folder}"):
            venv.create(folder, with_pip=True)
    with progress.status("Installing modelopt.onnx (1.4 GB)"):
        subprocess.run(
            [python, "-m", "pip", "install", "--quiet", *requirements()],
            check=True,
            env=without_python_path(),
        )
    return python


def requirements() -> list[str]:
    """What pip installs into it: the versions that are here."""
    wanted = [f"{name}=={version(name)}" for name in (_MODELOPT, "torch")]
    for line in requires(_MODELOPT) or ():
        requirement = Requirement(line)
        marker = requirement.marker
        in_extra = marker and marker.evaluate({"extra": "onnx"}) and not marker.evaluate()
        if in_extra and not requirement.name.startswith("cupy"):
            wanted.append(f"{requirement.name.removesuffix('-gpu')}{requirement.specifier}")
    return wanted


def without_python_path() -> dict[str, str]:
    """The environment, without what would let one installation see the other's modules."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
