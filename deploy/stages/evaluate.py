"""Evaluate: models and development examples -> runs, comparisons and changed examples."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import asdict
from typing import Any

from calib_data.progress import Progress
from calib_data.sampler import fingerprint, fingerprint_examples
from calib_data.tasks import Task
from deploy.artifacts import SCHEMA_VERSION, BuildFolder, write_json
from deploy.config import BuildConfig
from deploy.engine.builder import Flavour, flavour_version
from deploy.engine.opening import best_backend
from deploy.engine.profiles import bucket_profiles
from deploy.engine.session import Backend, Precision
from deploy.environment import cpu_name, gpu_names
from deploy.evaluation.examples import KEPT
from deploy.evaluation.harness import EvaluationSet
from deploy.evaluation.label_order import seems_permuted
from deploy.evaluation.results import evaluation_to_dict
from deploy.evaluation.stage import (
    ModelToEvaluate,
    backend_for,
    evaluate_models,
    journal_paths,
    model_hashes,
)
from deploy.inputs import BuildInputs
from deploy.stages.keys import stage_key, versions_of
from deploy.stages.record import Files
from deploy.stages.run import Made, Stage

EVALUATE = "evaluate"


def evaluate_stage(
    config: BuildConfig,
    folder: BuildFolder,
    inputs: BuildInputs,
    files: Files,
    progress: Progress,
) -> Stage:
    """The evaluation of every precision.

    Its result has `evaluation`, as `evaluation_to_dict`; `data`, what it was judged on; and
    `suspected_permutation`, whether the outputs seem to be numbered otherwise than the labels.
    """
    backend = config.backend or best_backend(folder, config.precision)
    precisions = tuple(dict.fromkeys((Precision.FP32, *config.precision)))
    executed = {each: backend_for(folder, each, backend) for each in precisions}
    models = [
        ModelToEvaluate(
            precision=precision,
            recipe=config.recipe_for(precision).name if precision.quantized else None,
            hashes=model_hashes({"files": files}, precision, executed[precision]),
        )
        for precision in precisions
    ]
    profiles = bucket_profiles(inputs.buckets, config.max_batch)
    data = _data(inputs.dev)

    def work() -> Made:
        evaluation = evaluate_models(folder, models, backend, profiles, inputs.dev, progress)
        changed = evaluation_to_dict(evaluation, KEPT)["changed_examples"]
        write_json(folder.examples, {"schema_version": SCHEMA_VERSION, "changed_examples": changed})
        fp32 = evaluation.runs[0].predictions
        assumed = bool(inputs.task.labels) and inputs.checkpoint.label_order is None
        return Made(
            [folder.examples, *journal_paths(folder, evaluation)],
            {
                "evaluation": evaluation_to_dict(evaluation),
                "data": data,
                "suspected_permutation": assumed
                and seems_permuted(inputs.task, inputs.dev.examples, fp32),
            },
        )

    return Stage(
        name=EVALUATE,
        key=stage_key(
            EVALUATE,
            models=[
                {**asdict(model), "backend": executed[model.precision].value} for model in models
            ],
            profiles=[asdict(profile) for profile in profiles],
            task=task_facts(inputs.task),
            data=data,
            left_out=inputs.dev.left_out,
            devices=[cpu_name(), *gpu_names()],
            versions=_versions(set(executed.values())),
        ),
        work=work,
    )


def task_facts(task: Task) -> dict[str, Any]:
    """All of a task that decides how predictions are made and judged, as plain data."""
    return {
        "identity": task.identity,
        "labels": list(task.labels),
        "outputs": list(task.output_order),
        "metrics": list(task.metrics),
    }


def _data(data: EvaluationSet) -> dict[str, Any]:
    return {
        "examples": fingerprint_examples(data.examples),
        "tokens": fingerprint(data.features),
        "pad_token_id": data.pad_token_id,
    }


def _versions(backends: Set[Backend]) -> dict[str, str | None]:
    """Of what executes these backends, and of what computes metrics."""
    executing = {Backend.ONNXRUNTIME: ("onnxruntime",), Backend.TORCH: ("torch", "triton")}
    packages = [name for backend in backends for name in executing.get(backend, ())]
    flavours = [Flavour(backend.value) for backend in backends - executing.keys()]
    return {
        **versions_of(*packages, "scikit-learn", "scipy"),
        **{flavour.value: flavour_version(flavour) for flavour in flavours},
    }
