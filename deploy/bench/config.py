"""What a benchmark is asked for, and what of it the build folder can give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any

from calib_data.errors import UsageError
from deploy.artifacts import BuildFolder, check_built
from deploy.bench.baselines import Baseline
from deploy.bench.sweep import Effort
from deploy.engine.profiles import Profile, Shape, bucket_profiles
from deploy.engine.session import Backend, Precision
from deploy.errors import BuildFolderError
from deploy.option_values import (
    parse_backend,
    parse_integers,
    parse_items,
    parse_member,
    parse_precisions,
)

_BATCHES = (1, 8, 32)


@dataclass(frozen=True)
class BenchConfig:
    """A benchmark.

    Attributes:
        out: Build folder.
        precision: Precisions to measure; None for all that the build has.
        backend: What executes them; None chooses the best there is.
        batch: Batch sizes; None for 1, 8 and 32 as far as the build goes.
        sequence: Sequence lengths in tokens; None for the build's buckets.
        baseline: What else to run on the same inputs.
        model: The checkpoint for torch's baselines; None for the one that was built.
        cuda_graph: Whether to measure with CUDA graphs as well as without.
        effort: How long to measure.
    """

    out: Path
    precision: tuple[Precision, ...] | None = None
    backend: Backend | None = None
    batch: tuple[int, ...] | None = None
    sequence: tuple[int, ...] | None = None
    baseline: tuple[Baseline, ...] = ()
    model: str | None = None
    cuda_graph: bool = True
    effort: Effort = field(default_factory=Effort)


@dataclass(frozen=True)
class BenchPlan:
    """What will be measured.

    Attributes:
        precisions: Models of the build.
        shapes: Every batch with every sequence.
        profiles: Shapes that the build was made for.
    """

    precisions: tuple[Precision, ...]
    shapes: tuple[Shape, ...]
    profiles: tuple[Profile, ...]


def bench_config_from_dict(plain: Mapping[str, Any]) -> BenchConfig:
    """Check options by name, given as the command line spells them; None means not given.

    Raises:
        UsageError: A value outside its range.
    """
    given = {name: value for name, value in plain.items() if value is not None}
    parsed = {name: parse(given[name]) for name, parse in _PARSERS.items() if name in given}
    effort: dict[str, Any] = {
        name: _at_least(name, given[name], least)
        for name, least in _EFFORT_MINIMA.items()
        if name in given
    }
    return BenchConfig(
        out=Path(given["out"]).expanduser(),
        model=given.get("model"),
        cuda_graph=given.get("cuda_graph", True),
        effort=Effort(**effort),
        **parsed,
    )


def bench_config_to_dict(config: BenchConfig) -> dict[str, Any]:
    """The configuration as plain data that `bench_config_from_dict` takes back, without `out`."""

    def plain(values: Sequence[Enum] | None) -> list[str] | None:
        return None if values is None else [each.value for each in values]

    return {
        "precision": plain(config.precision),
        "backend": None if config.backend is None else config.backend.value,
        "batch": None if config.batch is None else list(config.batch),
        "sequence": None if config.sequence is None else list(config.sequence),
        "baseline": plain(config.baseline),
        "model": config.model,
        "cuda_graph": config.cuda_graph,
        **asdict(config.effort),
    }


def settled(config: BenchConfig, plan: BenchPlan, backend: Backend) -> BenchConfig:
    """A benchmark with what its defaults came to, so that it is repeated on any machine."""
    return replace(
        config,
        precision=plan.precisions,
        backend=backend,
        batch=tuple(dict.fromkeys(shape.batch for shape in plan.shapes)),
        sequence=tuple(dict.fromkeys(shape.sequence for shape in plan.shapes)),
    )


def plan_bench(config: BenchConfig, results: Mapping[str, Any]) -> BenchPlan:
    """Hold what is asked for against what was built.

    Args:
        config: What is asked for.
        results: results.json of the build.

    Raises:
        UsageError: A precision that was not built, or a shape beyond the profiles.
        BuildFolderError: The build did not record its buckets.
    """
    check_built(BuildFolder(config.out), results, (each.value for each in config.precision or ()))
    built = tuple(Precision(name) for name in results["onnx"])
    buckets, max_batch = results["config"]["buckets"], results["config"]["max_batch"]
    if not buckets:
        raise BuildFolderError(
            f"'{config.out}' does not say which buckets it was built with", "build it again"
        )
    batches = config.batch or tuple(batch for batch in _BATCHES if batch <= max_batch)
    sequences = config.sequence or tuple(buckets)
    if batches[-1] > max_batch:
        raise UsageError(
            f"--batch {batches[-1]} exceeds the {max_batch} rows that '{config.out}' was built for",
            f"use --batch up to {max_batch}, or build again with --max-batch {batches[-1]}",
        )
    if sequences[-1] > buckets[-1]:
        raise UsageError(
            f"--sequence {sequences[-1]} exceeds the largest bucket of '{config.out}', "
            f"{buckets[-1]} tokens",
            f"use --sequence up to {buckets[-1]}, or build again with --buckets that cover it",
        )
    return BenchPlan(
        precisions=config.precision or built,
        shapes=tuple(Shape(batch, sequence) for sequence in sequences for batch in batches),
        profiles=bucket_profiles(tuple(buckets), max_batch),
    )


def _at_least(option: str, value: float, least: float) -> float:
    # NaN is not at least anything.
    if not value >= least:
        raise UsageError(f"--{option} is {value:g}", f"give at least {least:g}")
    return value


_EFFORT_MINIMA = {"iterations": 1, "seconds": 0.0, "warmup": 0.0}

_PARSERS: dict[str, Any] = {
    "precision": parse_precisions,
    "backend": parse_backend,
    "batch": lambda value: parse_integers("batch", value, 1, "1,8,32"),
    "sequence": lambda value: parse_integers("sequence", value, 1, "64,128"),
    "baseline": lambda value: tuple(
        dict.fromkeys(parse_member(Baseline, "baseline", item) for item in parse_items(value))
    ),
}
