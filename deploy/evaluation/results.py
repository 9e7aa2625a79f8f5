"""The evaluation's part of results.json, and examples.json."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from deploy.artifacts import SCHEMA_VERSION
from deploy.evaluation.compare import Comparison, Drop
from deploy.evaluation.examples import KEPT, SHOWN, changed_to_dict
from deploy.evaluation.harness import Run
from deploy.evaluation.stage import Evaluation

# What a run found; all else says what it was.
_FOUND = ("metrics", "seconds", "compare")


def with_evaluation(results: Mapping[str, Any], evaluation: Evaluation) -> dict[str, Any]:
    """results.json with another evaluation.

    Its runs are added; one of the very kind of an earlier one takes that one's place. `accuracy` is
    the best evidence of each precision: the run on the most examples, of those one that was
    executed before one that was simulated, of those the last. `compare` and `changed_examples` are
    that run's, against FP32 on the same examples in the same evaluation.

    Args:
        results: What it was.
        evaluation: What was found.
    """
    compared = {
        precision: comparison_to_dict(comparison)
        for precision, comparison in evaluation.comparisons.items()
    }
    added = [
        {
            **run_to_dict(run),
            **({"compare": compared[run.precision]} if run.precision in compared else {}),
        }
        for run in evaluation.runs
    ]
    kinds = [_kind(run) for run in added]
    runs = [*(run for run in results["runs"] if _kind(run) not in kinds), *added]
    best = _best_evidence(runs)
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
        "changed_examples": {
            **results.get("changed_examples", {}),
            **_changed(runs, evaluation, SHOWN),
        },
    }


def examples_to_dict(
    known: Mapping[str, Any], results: Mapping[str, Any], evaluation: Evaluation
) -> dict[str, Any]:
    """The content of examples.json after an evaluation.

    Args:
        known: What it was; empty where there was none.
        results: results.json, with this evaluation.
        evaluation: What was found.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "changed_examples": {
            **known.get("changed_examples", {}),
            **_changed(results["runs"], evaluation, KEPT),
        },
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


def _changed(
    runs: Iterable[Mapping[str, Any]], evaluation: Evaluation, limit: int
) -> dict[str, Any]:
    return {
        run.precision.value: changed_to_dict(
            evaluation.changed[run.precision], run.info.backend.value, limit
        )
        for run in _evidence(runs, evaluation)
        if run.precision in evaluation.changed
    }


def _evidence(runs: Iterable[Mapping[str, Any]], evaluation: Evaluation) -> list[Run]:
    """The runs of an evaluation that are the best evidence among all runs."""
    best = _best_evidence(runs)
    return [
        run
        for run in evaluation.runs
        if _kind(best[run.precision.value]) == _kind(run_to_dict(run))
    ]


def _best_evidence(runs: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    best: dict[str, Mapping[str, Any]] = {}
    for run in runs:
        known = best.get(run["precision"])
        if known is None or _worth(run) >= _worth(known):
            best[run["precision"]] = run
    return best


def _worth(run: Mapping[str, Any]) -> tuple[int, bool, int]:
    # Of two that were executed, the one that left less of the graph to other arithmetic.
    return run["n"], not run["simulated"], -len(run.get("simulated_parts", ()))


def _kind(run: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in run.items() if name not in _FOUND}
