"""The models of a build folder, each run over the data set, judged and held against FP32."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from calib_data.features import Features
from calib_data.progress import Progress
from deploy.artifacts import BuildFolder, make_folder
from deploy.engine.opening import best_backend, open_session
from deploy.engine.profiles import Profile, any_length
from deploy.engine.session import Backend, Precision, SessionInfo
from deploy.environment import installed_versions
from deploy.evaluation.compare import Comparison, compare
from deploy.evaluation.examples import ChangedExamples, changed_examples
from deploy.evaluation.harness import EvaluationSet, RowOutputs, Run, judge, run_rows
from deploy.evaluation.journal import Journal


@dataclass(frozen=True)
class ModelToEvaluate:
    """A model of a build folder.

    Attributes:
        precision: Of the model.
        recipe: Name of its recipe; None where nothing is quantized.
        hashes: SHA-256 of each file that is executed, by path within the folder.
    """

    precision: Precision
    recipe: str | None
    hashes: Mapping[str, str]


@dataclass(frozen=True)
class Evaluation:
    """What came out.

    Attributes:
        runs: One a precision, FP32's first.
        comparisons: Each precision but FP32 against FP32.
        changed: The examples that those answer otherwise.
    """

    runs: tuple[Run, ...]
    comparisons: Mapping[Precision, Comparison]
    changed: Mapping[Precision, ChangedExamples]


@dataclass(frozen=True)
class _Judged:
    run: Run
    comparison: Comparison | None = None
    changed: ChangedExamples | None = None


def evaluate_models(
    folder: BuildFolder,
    models: Sequence[ModelToEvaluate],
    backend: Backend,
    profiles: tuple[Profile, ...],
    data: EvaluationSet,
    progress: Progress,
    check: Callable[[Features], None] = lambda features: None,
) -> Evaluation:
    """Evaluate models one after another, going on where an earlier evaluation was stopped.

    While one model runs, the outputs of the one before it are turned into predictions, rated and
    compared. Nothing of the result depends on that.

    Args:
        folder: Where the models lie, with a manifest; journals are kept in it.
        models: FP32 first.
        backend: What executes them. FP32 is executed by the best there is where the backend needs
            a plan and there is none of FP32.
        profiles: Shapes that the build was made for.
        data: What they are judged on.
        progress: Told about each batch.
        check: Given all rows as soon as the first model has run on them.

    Raises:
        BackendError: The backend is not available here, or refuses a model.
        EvaluationError: Outputs do not fit the task, or are not finite.
        BuildFolderError: A journal cannot be written.
    """
    make_folder(folder.journals)
    judged: list[Future[_Judged]] = []
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="judge") as pool:
        for model in models:
            info, outputs = _run(folder, model, backend, profiles, data, progress)
            if not judged:
                check(data.features)
            reference = judged[0] if judged else None
            judged.append(pool.submit(_judge, info, model, data, outputs, reference))
        results = [each.result() for each in judged]
    by_precision = {each.run.precision: each for each in results}
    return Evaluation(
        runs=tuple(each.run for each in results),
        comparisons={
            precision: each.comparison
            for precision, each in by_precision.items()
            if each.comparison is not None
        },
        changed={
            precision: each.changed
            for precision, each in by_precision.items()
            if each.changed is not None
        },
    )


def backend_for(folder: BuildFolder, precision: Precision, backend: Backend) -> Backend:
    """What executes a precision: the backend, but the best there is for FP32 without a plan."""
    if precision is Precision.FP32 and backend in _PLAN_BACKENDS and not _has_plan(folder):
        return best_backend(folder, (precision,))
    return backend


def model_hashes(
    manifest: Mapping[str, Any], precision: Precision, backend: Backend
) -> dict[str, str]:
    """SHA-256 of each file that a backend executes, by path within the folder.

    Args:
        manifest: The folder's, or the part of it that has `files`.
        precision: Of the model.
        backend: As `backend_for` gives it.
    """
    start = (
        f"engines/model.{precision.value}."
        if backend in _PLAN_BACKENDS
        else f"onnx/model.{precision.value}.onnx"
    )
    return {
        name: entry["sha256"] for name, entry in manifest["files"].items() if name.startswith(start)
    }


def journal_path(folder: BuildFolder, precision: Precision, backend: Backend) -> Path:
    """Where the answers of a precision on a backend are kept."""
    return folder.journals / f"{precision.value}.{backend.value}.journal"


def journal_paths(folder: BuildFolder, evaluation: Evaluation) -> list[Path]:
    """The journals that an evaluation has left."""
    return [journal_path(folder, run.precision, run.info.backend) for run in evaluation.runs]


def _run(
    folder: BuildFolder,
    model: ModelToEvaluate,
    backend: Backend,
    profiles: tuple[Profile, ...],
    data: EvaluationSet,
    progress: Progress,
) -> tuple[SessionInfo, RowOutputs]:
    precision = model.precision
    backend = backend_for(folder, precision, backend)
    if backend is Backend.ONNXRUNTIME:
        profiles = any_length(profiles)
    with progress.status(f"Opening {precision.value} on {backend.value}"):
        session = open_session(folder, precision, backend, profiles, data.pad_token_id)
    identity = _identity(model, session.info, session.profiles)
    path = journal_path(folder, precision, session.info.backend)
    try:
        with Journal(path, identity) as journal:
            description = f"Evaluating {precision.value}"
            outputs = run_rows(session, data, progress, description, journal)
    finally:
        close = getattr(session, "close", None)  # sessions on a GPU hold memory there
        if close is not None:
            close()
    return session.info, outputs


_PLAN_BACKENDS = (Backend.TENSORRT, Backend.TENSORRT_RTX)


def _has_plan(folder: BuildFolder) -> bool:
    pattern = folder.plan(Precision.FP32.value, "*")
    return any(pattern.parent.glob(pattern.name))


def _identity(
    model: ModelToEvaluate, info: SessionInfo, profiles: tuple[Profile, ...]
) -> dict[str, Any]:
    """All that decides about a session's outputs, besides its inputs."""
    return {
        "files": dict(model.hashes),
        "session": asdict(info),
        "profiles": [asdict(profile) for profile in profiles],
        "versions": installed_versions(),
    }


def _judge(
    info: SessionInfo,
    model: ModelToEvaluate,
    data: EvaluationSet,
    outputs: RowOutputs,
    reference: Future[_Judged] | None,
) -> _Judged:
    run = judge(info, model.precision, model.recipe, data, outputs)
    if reference is None:
        return _Judged(run)
    fp32 = reference.result().run.predictions
    return _Judged(
        run,
        compare(data.task, data.examples, fp32, run.predictions),
        changed_examples(data.task, data.examples, fp32, run.predictions),
    )
