"""The functions that `import deploy` offers beside the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from calib_data.progress import Progress
from deploy import pipeline
from deploy.artifacts import BuildFolder, check_built, read_results
from deploy.config import BuildConfig, config_from_dict, config_to_dict
from deploy.engine import opening
from deploy.engine.profiles import bucket_profiles
from deploy.engine.session import Backend, Precision, Session
from deploy.evaluation.config import EvaluateConfig
from deploy.evaluation.pipeline import evaluate_folder, read_tokenizer


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


def evaluate(config: EvaluateConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Judge the models of a finished build again, as `deploy evaluate` does.

    Args:
        config: What to evaluate, on what, and what it is held to.
        progress: Told about everything that takes over a second; None for silence.

    Returns:
        The content of results.json, which is written too.

    Raises:
        ToolchainError: Whatever the user has to mend; its `remedy` says how.
    """
    return evaluate_folder(config, progress)


def open_session(out: Path, precision: Precision, backend: Backend | None = None) -> Session:
    """Open a model of a build folder for inference.

    Args:
        out: The build folder.
        precision: One that it was built in.
        backend: What executes it; None for the best there is: a plan for this GPU, torch on a
            GPU, onnxruntime.

    Raises:
        BuildFolderError: `out` is no finished build.
        UsageError: It lacks the precision.
        BackendError: The backend is not available here, or refuses the model.
        PlanError: The engine is damaged, or of another machine.
    """
    folder = BuildFolder(Path(out))
    results = read_results(folder)
    check_built(folder, results, (precision.value,))
    return opening.open_session(
        folder,
        precision,
        backend or opening.best_backend(folder, (precision,)),
        bucket_profiles(tuple(results["config"]["buckets"]), results["config"]["max_batch"]),
        read_tokenizer(folder).pad_token_id,
    )
