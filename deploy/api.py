"""The functions that `import deploy` offers beside the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from calib_data.progress import Progress
from deploy import pipeline
from deploy.artifacts import BuildFolder, read_results
from deploy.config import BuildConfig, config_from_dict, config_to_dict
from deploy.engine import opening
from deploy.engine.profiles import bucket_profiles
from deploy.engine.session import Backend, Precision, Session
from deploy.errors import BuildFolderError
from deploy.evaluate.pipeline import read_tokenizer


def build(config: BuildConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Run a whole build into `config.out`, as `deploy build` does.

    Args:
        config: What to build; checked as the command line is.
        progress: Told about everything that takes over a second; None for silence.

    Returns:
        The content of results.json. Gates that do not hold stand in it; they raise nothing.

    Raises:
        ToolchainError: Whatever the user has to mend; its `remedy` says how.
    """
    return pipeline.build(config_from_dict(config_to_dict(config)), progress)


def open_session(out: Path, precision: Precision, backend: Backend | None = None) -> Session:
    """Open a model of a build folder for inference.

    Args:
        out: The build folder.
        precision: One that it was built in.
        backend: What executes it; None for the best there is: a plan for this GPU, torch on a
            GPU, onnxruntime.

    Raises:
        BuildFolderError: `out` is no finished build, or lacks the precision.
        BackendError: The backend is not available here, or refuses the model.
        PlanError: The engine is damaged, or of another machine.
    """
    folder = BuildFolder(Path(out))
    results = read_results(folder)
    if precision not in results["onnx"]:
        raise BuildFolderError(
            f"'{out}' has no {Precision(precision).value} model",
            f"open one of: {', '.join(results['onnx'])}; or build with that precision",
        )
    return opening.open_session(
        folder,
        Precision(precision),
        backend or opening.best_backend(folder, (Precision(precision),)),
        bucket_profiles(tuple(results["config"]["buckets"]), results["config"]["max_batch"]),
        read_tokenizer(folder).pad_token_id,
    )
