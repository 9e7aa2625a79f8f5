"""The evaluation's part of results.json, and examples.json."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from calib_data.tasks import Task
from deploy.artifacts import SCHEMA_VERSION
from deploy.engine.session import Precision
from deploy.evaluation.compare import Comparison, Drop
from deploy.evaluation.examples import SHOWN, changed_to_dict
from deploy.evaluation.gates import AccuracyLimits, accuracy_gates, limits_to_dict
from deploy.evaluation.harness import Run
from deploy.evaluation.stage import Evaluation
from deploy.evidence import best_evidence

# What a run found; all else says what it was.
_FOUND = ("metrics", "examples_total", "seconds", "compare")


def evaluation_to_dict(evaluation: Evaluation, limit: int = SHOWN) -> dict[str, Any]:
    """An evaluation as plain data, each run with its comparison.

    Args:
        evaluation: What was found.
        limit: Changed examples to keep of each precision.
    """
    comparisons, changed = evaluation.comparisons, evaluation.changed
    return {
        "runs": [
            {
                **run_to_dict(run),
                **(
                    {"compare": comparison_to_dict(comparisons[run.precision])}
                    if run.precision in comparisons
                    else {}
                ),
            }
            for run in evaluation.runs
        ],
        "changed_examples": {
            run.precision.value: changed_to_dict(
                changed[run.precision], run.info.backend.value, limit
            )
            for run in evaluation.runs
            if run.precision in changed
        },
    }


def with_evaluation(results: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """results.json with another evaluation.

    Its runs are added; one of the very kind of an earlier one takes that one's place. `accuracy` is
    the best evidence of each precision, as `deploy.evidence` has it. `compare` and
    `changed_examples` are that run's, against FP32 on the same examples in the same evaluation.

    Args:
        results: What it was.
        found: As `evaluation_to_dict` has it.
    """
    kinds = [_kind(run) for run in found["runs"]]
    runs = [*(run for run in results["runs"] if _kind(run) not in kinds), *found["runs"]]
    best = best_evidence(runs)
    return {
        **results,
        "accuracy": {
            precision: {"metrics": run["metrics"], "n": run["n"], "backend": run["backend"]}
            for precision, run in best.items()
        },
        "runs": runs,
        "compare": {
            **results["compare"],
            **{precision: run["compare"] for precision, run in best.items() if "compare" in run},
        },
        "changed_examples": {**results.get("changed_examples", {}), **_evidence(runs, found)},
    }


def examples_to_dict(
    known: Mapping[str, Any], results: Mapping[str, Any], found: Mapping[str, Any]
) -> dict[str, Any]:
    """The content of examples.json after an evaluation.

    Args:
        known: What it was; empty where there was none.
        results: results.json, with this evaluation.
        found: As `evaluation_to_dict` has it, with as many examples as are to be kept.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "changed_examples": {
            **known.get("changed_examples", {}),
            **_evidence(results["runs"], found),
        },
    }


def with_gates(results: Mapping[str, Any], task: Task, limits: AccuracyLimits) -> dict[str, Any]:
    """results.json with its gates judged anew, and the limits that they were judged by.

    Gates on predictions are judged by the best evidence; those that only a build can judge stay.
    """
    metrics = {
        Precision(name): results["accuracy"][name]["metrics"]
        for name in results["config"]["precision"]
    }
    comparisons = {
        Precision(name): comparison_from_dict(plain) for name, plain in results["compare"].items()
    }
    gates = accuracy_gates(limits, task.metrics[0], metrics, comparisons)
    fusion = [gate for gate in results["gates"] if gate["name"].startswith("fusion.")]
    return {
        **results,
        "gates": [*map(asdict, gates), *fusion],
        "limits": limits_to_dict(limits),
    }


def run_to_dict(run: Run) -> dict[str, Any]:
    """An evaluation of one model, without its predictions."""
    return {
        "precision": run.precision.value,
        "recipe": run.recipe,
        "backend": run.info.backend.value,
        "arithmetic": run.info.arithmetic,
        "simulated": run.info.simulated,
        "simulated_parts": list(run.info.simulated_parts),
        "device": run.info.device,
        "metrics": run.metrics,
        "n": run.n,
        "examples_total": run.examples_total,
        "seconds": round(run.seconds, 3),
    }


def comparison_to_dict(comparison: Comparison) -> dict[str, Any]:
    """A comparison, the metrics by their names beside what all tasks have."""
    return {
        **{
            name: {
                "drop": drop.drop,
                "relative_drop": drop.relative_drop,
                "ci95": list(drop.ci95),
            }
            for name, drop in comparison.metric.items()
        },
        "agreement": comparison.agreement,
        "changed": comparison.changed,
    }


def comparison_from_dict(plain: Mapping[str, Any]) -> Comparison:
    """A comparison out of results.json."""
    return Comparison(
        metric={
            name: Drop(drop["drop"], drop["relative_drop"], (drop["ci95"][0], drop["ci95"][1]))
            for name, drop in plain.items()
            if isinstance(drop, Mapping)
        },
        agreement=plain["agreement"],
        changed=plain["changed"],
    )


def _evidence(runs: Iterable[Mapping[str, Any]], found: Mapping[str, Any]) -> dict[str, Any]:
    """The changed examples of those runs that are the best evidence among all runs."""
    best = best_evidence(runs)
    return {
        run["precision"]: found["changed_examples"][run["precision"]]
        for run in found["runs"]
        if run["precision"] in found["changed_examples"]
        and _kind(best[run["precision"]]) == _kind(run)
    }


def _kind(run: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in run.items() if name not in _FOUND}
