"""results.json: one plain object that every table, report and gate is made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from calib_data.tasks import Task
from deploy.artifacts import SCHEMA_VERSION
from deploy.config import BuildConfig, config_to_dict
from deploy.engine.fusion import ProfileFusion, fusion_counts, fusion_to_dict
from deploy.engine.session import Precision
from deploy.evaluation.gates import fusion_gates, worst_profile
from deploy.evaluation.results import with_evaluation, with_gates
from export.calibration_table import CalibrationTable
from export.recipe import recipe_to_dict


@dataclass(frozen=True)
class EngineFile:
    """A plan that was built.

    Attributes:
        precision: Of the model.
        flavour: Which TensorRT built it.
        version: Its version.
        target: Compute capability.
        file: Path within the build folder.
        bytes: Size of the plan.
        seconds: How long the build took.
    """

    precision: Precision
    flavour: str
    version: str
    target: str
    file: str
    bytes: int
    seconds: float


@dataclass(frozen=True)
class LabelOrder:
    """How the model's outputs were tied to the task's labels.

    Attributes:
        names: The task's labels, in the order of their ids.
        outputs: Which output of the model is each of them, by the names in its configuration; None
            where it has none, and the model is taken to number them as the task does.
        suspected_permutation: Whether FP32's accuracy says that this cannot be.
    """

    names: tuple[str, ...]
    outputs: tuple[int, ...] | None
    suspected_permutation: bool


@dataclass(frozen=True)
class BuildOutcome:
    """Everything that a build found out.

    Attributes:
        config: What it was asked for.
        task: The task, as `BuildInputs` has it.
        labels: Class names and their order; None where the task has no classes.
        model_fingerprint: sha256 of the checkpoint.
        data_fingerprint: sha256 over the token ids of the development examples, in order.
        onnx_bytes: Size of the ONNX model, by precision.
        calibration: As `calibration_to_dict` has it, or None where nothing needed it.
        evaluation: Of every precision, as `evaluation_to_dict` has it.
        engines: Plans that were built, each as `EngineFile` has it.
        fusion: What the builder fused, by precision; absent where that is unknown of a target.
        environment: Machine and versions.
        carried: What of earlier results still holds; see `deploy.carried`.
    """

    config: BuildConfig
    task: Task
    labels: LabelOrder | None
    model_fingerprint: str
    data_fingerprint: str
    onnx_bytes: Mapping[Precision, int]
    calibration: Mapping[str, Any] | None
    evaluation: Mapping[str, Any]
    engines: Sequence[Mapping[str, Any]]
    fusion: Mapping[Precision, Sequence[ProfileFusion]]
    environment: Mapping[str, Any]
    carried: Mapping[str, Any]


def results_to_dict(outcome: BuildOutcome) -> dict[str, Any]:
    """The content of results.json, schema version 1, with every gate judged."""
    plain = {
        "schema_version": SCHEMA_VERSION,
        "model": outcome.config.model,
        "task": outcome.task.identity,
        "task_file": None if outcome.task.files is None else outcome.task.files.text,
        "labels": None if outcome.labels is None else _labels(outcome.labels),
        "model_fingerprint": outcome.model_fingerprint,
        "data_fingerprint": outcome.data_fingerprint,
        "accuracy": {},
        "runs": [],
        "compare": {},
        "changed_examples": {},
        "fusion": {
            precision.value: _fusion(profiles) for precision, profiles in outcome.fusion.items()
        },
        "engines": [dict(engine) for engine in outcome.engines],
        "onnx": {
            precision.value: {"bytes": size} for precision, size in outcome.onnx_bytes.items()
        },
        "recipes": {
            precision.value: recipe_to_dict(outcome.config.recipe_for(precision))
            for precision in outcome.config.precision
            if precision.quantized
        },
        "calibration": outcome.calibration,
        "latency": [],
        "gates": _fusion_gates(outcome),
        "environment": dict(outcome.environment),
        "config": config_to_dict(outcome.config),
    }
    results = with_evaluation({**plain, **outcome.carried}, outcome.evaluation)
    return with_gates(results, outcome.task, outcome.config.accuracy_limits)


def _fusion_gates(outcome: BuildOutcome) -> list[dict[str, Any]]:
    if not outcome.config.require_fusion:
        return []
    return [asdict(gate) for gate in fusion_gates(outcome.fusion, outcome.config.precision)]


def _labels(order: LabelOrder) -> dict[str, Any]:
    return {
        "names": list(order.names),
        "outputs": None if order.outputs is None else list(order.outputs),
        "suspected_permutation": order.suspected_permutation,
    }


def calibration_to_dict(table: CalibrationTable) -> dict[str, Any]:
    """Where a table comes from, and the largest magnitude of all that it watched.

    The magnitudes have four significant digits, which a plot needs; `calibration.json` has them
    all, with the histograms that scales are derived from.
    """
    return {
        **asdict(table.source),
        "ranges": {
            "sites": {name: _rounded(site.amax) for name, site in table.sites.items()},
            "carried": {name: _rounded(amax) for name, amax in table.carried.items()},
        },
    }


def _rounded(amax: float) -> float:
    return float(f"{amax:.4g}")


def _fusion(profiles: Sequence[ProfileFusion]) -> dict[str, Any]:
    worst = worst_profile(profiles)
    assert worst is not None  # a precision is listed only with its profiles
    return {
        **fusion_counts(worst),
        "unfused": [each.module for each in worst.unfused],
        "profiles": [
            {
                "target": each.target,
                "min": asdict(each.profile.min),
                "opt": asdict(each.profile.opt),
                "max": asdict(each.profile.max),
                "layers": each.layers,
                **fusion_to_dict(each),
            }
            for each in profiles
        ],
    }
