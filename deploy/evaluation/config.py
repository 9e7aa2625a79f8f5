"""What an evaluation is asked for, and what of it the build folder can give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.artifacts import BuildFolder, check_built
from deploy.engine.session import Backend, Precision
from deploy.evaluation.gates import AccuracyLimits
from deploy.option_values import (
    parse_backend,
    parse_integer,
    parse_max_drop,
    parse_min,
    parse_min_agreement,
    parse_precisions,
)


@dataclass(frozen=True)
class EvaluateConfig:
    """An evaluation of a build folder.

    Attributes:
        out: The folder.
        precision: Precisions to evaluate beside FP32; None for all that the build has.
        backend: What executes them; None chooses the best there is.
        data_dir: Folder of local data; None for the build's.
        limit: Evaluate this many dev examples, from the first; None for all.
        max_drop: As `BuildConfig` has it; None for the build's.
        min: The same.
        min_agreement: The same.
    """

    out: Path
    precision: tuple[Precision, ...] | None = None
    backend: Backend | None = None
    data_dir: Path | None = None
    limit: int | None = None
    max_drop: float | None = None
    min: Mapping[str, float] | None = None
    min_agreement: float | None = None


def evaluate_config_from_dict(plain: Mapping[str, Any]) -> EvaluateConfig:
    """Check options by name, given as the command line spells them; None means not given.

    Raises:
        UsageError: A value outside its range.
    """
    given = {name: value for name, value in plain.items() if value is not None}
    return EvaluateConfig(
        out=Path(given["out"]).expanduser(),
        **{name: parse(given[name]) for name, parse in _PARSERS.items() if name in given},
    )


def precisions_to_evaluate(
    config: EvaluateConfig, results: Mapping[str, Any]
) -> tuple[Precision, ...]:
    """FP32, which the others are held against, and what is asked for.

    Raises:
        UsageError: A precision that was not built.
    """
    check_built(BuildFolder(config.out), results, (each.value for each in config.precision or ()))
    built = tuple(Precision(name) for name in results["onnx"])
    return tuple(dict.fromkeys((Precision.FP32, *(config.precision or built))))


def limits_to_apply(config: EvaluateConfig, build: Mapping[str, Any]) -> AccuracyLimits:
    """What is asked for now, or else was asked of the build.

    Args:
        config: What is asked for now.
        build: `config` of results.json.
    """

    def choose(given: Any, name: str) -> Any:
        return build.get(name) if given is None else given

    return AccuracyLimits(
        max_drop=choose(config.max_drop, "max_drop"),
        minima=choose(config.min, "min") or {},
        min_agreement=choose(config.min_agreement, "min_agreement"),
    )


_PARSERS: dict[str, Any] = {
    "precision": parse_precisions,
    "backend": parse_backend,
    "data_dir": lambda value: Path(str(value)).expanduser(),
    "limit": lambda value: parse_integer("limit", value, 1),
    "max_drop": parse_max_drop,
    "min": parse_min,
    "min_agreement": parse_min_agreement,
}
