"""What a tuning run found: tune.json, and the recipe file that a build takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from deploy.artifacts import SCHEMA_VERSION
from deploy.config import config_to_dict
from deploy.engine.profiles import Shape
from deploy.evaluation.compare import Comparison
from deploy.evaluation.deviation import Deviation
from deploy.evaluation.gates import Gate
from deploy.evaluation.harness import Run
from deploy.evaluation.results import comparison_to_dict, run_to_dict
from deploy.tune.config import TuneConfig
from deploy.tune.roofline import Gpu
from deploy.tune.search import Found
from deploy.tune.sensitivity import Sensitivity
from export.recipe import QuantRecipe, recipe_to_dict

# The two recipes that are compared with FP32.
BASE = "base"
TUNED = "tuned"


@dataclass(frozen=True)
class TuneOutcome:
    """Everything that a tuning run found.

    Attributes:
        config: What was asked for.
        task: Identity of the task.
        recipe: The tuned recipe.
        units: Every unit of the base recipe, those to give up first in front.
        found: Outcome of the search.
        rows: Number of tuning examples.
        reference: FP32's metrics on them.
        base: The base recipe on them.
        tuned: The tuned recipe on them.
        gpu: Whose roofline the benefits were estimated on.
        shape: At which shape.
        runs: Evaluations on the dev set: fp32, base and tuned.
        comparisons: Of base and tuned against FP32, on the dev set.
        environment: As `describe_environment` gives it.
        seconds: Time that the run took.
    """

    config: TuneConfig
    task: str
    recipe: QuantRecipe
    units: Sequence[Sensitivity]
    found: Found
    rows: int
    reference: Mapping[str, float]
    base: Deviation
    tuned: Deviation
    gpu: Gpu
    shape: Shape
    runs: Mapping[str, Run]
    comparisons: Mapping[str, Comparison]
    environment: Mapping[str, Any]
    seconds: float

    @property
    def metric(self) -> str:
        """The main metric."""
        return next(iter(self.reference))

    @property
    def benefit(self) -> str:
        """What the benefit of a unit is worth, in words."""
        shape = f"{self.shape.batch} x {self.shape.sequence}"
        return f"estimated (roofline, {self.gpu.name}, {shape})"


def outcome_to_dict(outcome: TuneOutcome) -> dict[str, Any]:
    """The content of tune.json, schema version 1."""
    config, found = outcome.config, outcome.found
    return {
        "schema_version": SCHEMA_VERSION,
        "model": config.build.model,
        "task": outcome.task,
        "precision": config.precision.value,
        "metric": outcome.metric,
        "max_drop": config.max_drop,
        "base": recipe_to_dict(config.base),
        "recipe": recipe_to_dict(outcome.recipe),
        "fallbacks": [unit.name for unit in found.fallbacks],
        "benefit": {
            "kind": "estimated",
            "method": "roofline",
            "description": outcome.benefit,
            **asdict(outcome.gpu),
            **asdict(outcome.shape),
            "seconds_base": sum(each.benefit for each in outcome.units),
            "seconds_tuned": sum(
                each.benefit for each in outcome.units if each.unit not in found.fallbacks
            ),
        },
        "tuning": {
            "split": "train",
            "n": outcome.rows,
            "fp32": dict(outcome.reference),
            BASE: _deviation(outcome.base),
            TUNED: _deviation(outcome.tuned),
        },
        "units": [
            {
                "name": each.unit.name,
                "layer": each.unit.layer,
                "role": each.unit.role,
                "sites": [site.name for site in each.unit.sites],
                "quantized": each.unit not in found.fallbacks,
                "damage": each.damage,
                "damage_share": each.damage / outcome.base.error**2 if outcome.base.error else 0.0,
                "benefit_seconds": each.benefit,
                "only": _deviation(each.only),
                "without": _deviation(each.without),
            }
            for each in outcome.units
        ],
        "search": [
            {
                "fallbacks": [unit.name for unit in step.fallbacks],
                "relative_drop": step.drop,
                "met": step.met,
            }
            for step in found.steps
        ],
        "dev": {
            "runs": {name: run_to_dict(run) for name, run in outcome.runs.items()},
            "compare": {
                name: comparison_to_dict(each) for name, each in outcome.comparisons.items()
            },
        },
        "gates": [asdict(gate) for gate in _gates(outcome)],
        "environment": dict(outcome.environment),
        "config": {**config_to_dict(config.build), "tune_samples": config.tune_samples},
        "seconds": round(outcome.seconds, 3),
    }


def _deviation(deviation: Deviation) -> dict[str, Any]:
    return {"error": deviation.error, **comparison_to_dict(deviation.comparison)}


def _gates(outcome: TuneOutcome) -> tuple[Gate, ...]:
    limit, metric = outcome.config.max_drop, outcome.metric
    dev = outcome.comparisons[TUNED].metric[metric].relative_drop
    return (
        Gate(f"max_drop.tuning.{metric}", limit, outcome.found.drop, outcome.found.met),
        Gate(f"max_drop.dev.{metric}", limit, dev, dev <= limit),
    )


def recipe_file(outcome: TuneOutcome) -> str:
    """The tuned recipe as YAML, with a header that says where it comes from."""
    import yaml

    config, found = outcome.config, outcome.found
    fallbacks = ", ".join(unit.name for unit in found.fallbacks) or "none"
    header = (
        "Written by `deploy tune`; take it with `deploy build --recipe FILE`.",
        f"base recipe: {config.base.name}; model: {config.build.model}; task: {outcome.task}",
        f"relative drop of {outcome.metric}: asked for at most {config.max_drop:g}, "
        f"reached {found.drop:.4g} on {outcome.rows} training examples",
        f"back in {config.build.high_precision.value}: {fallbacks} "
        f"({len(found.fallbacks)} of {len(outcome.units)} units)",
        f"benefit of a unit: {outcome.benefit}",
    )
    # A model's path may hold a line feed, which would end the comment.
    lines = [f"# {' '.join(line.split())}" for line in header]
    recipe = yaml.safe_dump(recipe_to_dict(outcome.recipe), sort_keys=False, width=100)
    return "\n".join(lines) + "\n" + recipe
