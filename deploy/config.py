"""What a build is asked for: one typed object, from command line, YAML file or Python."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import Any

from calib_data.errors import UsageError
from calib_data.parsing import NotParsableError, parse_yaml
from calib_data.tasks import Task, get_task, is_task_file
from deploy.engine.builder import BuilderOptions, HardwareCompatibility
from deploy.engine.session import Backend, Precision
from deploy.evaluation.gates import AccuracyLimits
from deploy.option_values import (
    parse_backend,
    parse_buckets,
    parse_flag,
    parse_integer,
    parse_items,
    parse_max_drop,
    parse_member,
    parse_min,
    parse_min_agreement,
    parse_path,
    parse_precisions,
    parse_targets,
)
from export.errors import RecipeError
from export.precision import FloatType
from export.recipe import PRESETS, QuantRecipe, load_recipe, recipe_from_dict, recipe_to_dict

DEMO = "demo"


class StageKind(str, Enum):
    """A kind of stage, as --force names it."""

    EXPORT = "export"
    CALIBRATE = "calibrate"
    QUANTIZE = "quantize"
    COMPILE = "compile"
    EVALUATE = "evaluate"
    REPORT = "report"


class EngineChoice(str, Enum):
    """Which TensorRT, if any, builds plans."""

    AUTO = "auto"
    NONE = "none"
    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt-rtx"


@dataclass(frozen=True)
class BuildConfig:
    """A build.

    Attributes:
        model: Folder, hub id, or "demo".
        task: Task name, or a user's task file.
        out: Build folder.
        precision: Precisions to build; fp32 is always evaluated, as the reference.
        data_dir: Folder of local data, or None for the hub.
        engine: What builds plans.
        target: Compute capabilities to build for, where the engine can without the GPU; None
            builds for the GPU of this machine, or for SM89 where there is none.
        backend: What executes the evaluation; None chooses the best there is.
        high_precision: Type of everything that a quantized engine does not quantize.
        buckets: Sequence buckets in tokens, ascending; None takes the task's.
        max_batch: Largest batch of every profile.
        workspace_mib: Device memory that a kernel may use beside inputs and outputs, in MiB; None
            for all there is.
        optimization_level: TensorRT's, from 0, fastest build, to 5, fastest engine; None for its
            default, 3. TensorRT for RTX takes it and builds the same.
        hardware_compatibility: Which GPUs beside the building one may run a plan; `tensorrt` only.
        version_compatible: Whether later TensorRT releases of the same major version must load the
            plan; `tensorrt` only.
        calib_samples: Training examples to calibrate on.
        seed: Of the calibration sample.
        recipe: Recipes that replace the default one of their format.
        max_drop: Largest relative drop of the main metric that passes; None sets no gate.
        min: Least value of a metric that passes, in every precision, by the metric's name.
        min_agreement: Least share of examples answered as FP32 does that passes; None sets no gate.
        require_fusion: Whether an incomplete fusion fails the build.
        limit: Evaluate this many dev examples, from the first; None for all.
        allow_pickle: Whether the tensors of a pytorch_model.bin may be read where a model folder
            has no safetensors.
    """

    model: str
    task: str
    out: Path
    precision: tuple[Precision, ...] = (Precision.FP8,)
    data_dir: Path | None = None
    engine: EngineChoice = EngineChoice.AUTO
    target: tuple[str, ...] | None = None
    backend: Backend | None = None
    high_precision: FloatType = FloatType.FP16
    buckets: tuple[int, ...] | None = None
    max_batch: int = 32
    workspace_mib: int | None = None
    optimization_level: int | None = None
    hardware_compatibility: HardwareCompatibility = HardwareCompatibility.NONE
    version_compatible: bool = False
    calib_samples: int = 256
    seed: int = 0
    recipe: tuple[QuantRecipe, ...] = ()
    max_drop: float | None = None
    min: Mapping[str, float] = field(default_factory=dict)
    min_agreement: float | None = None
    require_fusion: bool = False
    limit: int | None = None
    allow_pickle: bool = False

    @property
    def builder_options(self) -> BuilderOptions:
        """How engines are built."""
        return BuilderOptions(
            workspace_mib=self.workspace_mib,
            optimization_level=self.optimization_level,
            hardware_compatibility=self.hardware_compatibility,
            version_compatible=self.version_compatible,
        )

    @property
    def accuracy_limits(self) -> AccuracyLimits:
        """What the predictions are held to."""
        return AccuracyLimits(self.max_drop, self.min, self.min_agreement)

    def recipe_for(self, precision: Precision) -> QuantRecipe:
        """The recipe of a quantized precision."""
        for recipe in self.recipe:
            if recipe.format.value == precision.value:
                return recipe
        return PRESETS[precision.value]


def config_from_dict(plain: Mapping[str, Any]) -> BuildConfig:
    """Check options by name, given as the command line or a YAML file spells them.

    Args:
        plain: Option names with underscores, as the fields of `BuildConfig`; lists may be given
            as comma-separated text.

    Raises:
        UsageError: An unknown option, a missing one, or a value outside its range.
        RecipeError: A recipe that cannot be read, or whose format no precision asks for.
    """
    known = {field.name for field in fields(BuildConfig)}
    # YAML keys need not be text.
    unknown = sorted(str(key) for key in plain.keys() - known)
    if unknown:
        raise UsageError(
            f"unknown option '{unknown[0]}' in the configuration",
            f"known are: {', '.join(sorted(known))}",
        )
    given = {key: value for key, value in plain.items() if value is not None}
    for name in ("model", "task", "out"):
        if not str(given.get(name, "")).strip():
            raise UsageError(f"--{name} is missing", f"give --{name}, or put it into --config")
    task = _task(given["task"])
    config = BuildConfig(
        model=_model(given["model"]),
        task=task,
        out=parse_path(given["out"]),
        **{name: parse(given[name]) for name, parse in _PARSERS.items() if name in given},
    )
    _check_recipes(config)
    check_metrics(config.min, get_task(task))
    return config


def load_config(path: Path) -> dict[str, Any]:
    """Read the options of a YAML file, unchecked.

    Raises:
        UsageError: The file is missing, or is not a YAML mapping.
    """
    try:
        plain = parse_yaml(path.read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read '{path}': {error.strerror}", "check --config") from error
    except NotParsableError as error:
        where = f"{path}:{error.line}" if error.line else str(path)
        raise UsageError(f"'{where}' is not YAML: {error}", "mend the file's syntax") from error
    if not isinstance(plain, dict):
        raise UsageError(f"'{path}' holds no options", "write lines such as `precision: fp8`")
    return plain


def config_to_dict(config: BuildConfig) -> dict[str, Any]:
    """The configuration as plain data that `config_from_dict` takes back."""
    plain: dict[str, Any] = {}
    for option in fields(config):
        value = getattr(config, option.name)
        if option.name == "recipe":
            plain["recipe"] = [
                recipe.name if PRESETS.get(recipe.name) == recipe else recipe_to_dict(recipe)
                for recipe in value
            ]
        elif isinstance(value, tuple):
            plain[option.name] = [getattr(item, "value", item) for item in value]
        elif isinstance(value, Mapping):
            plain[option.name] = dict(value)
        elif isinstance(value, Path):
            plain[option.name] = str(value)
        else:
            plain[option.name] = getattr(value, "value", value)
    return plain


def _check_recipes(config: BuildConfig) -> None:
    formats = [recipe.format.value for recipe in config.recipe]
    for recipe, name in zip(config.recipe, formats, strict=True):
        if Precision(name) not in config.precision:
            raise RecipeError(
                f"recipe '{recipe.name}' is for {name}, which is not built",
                f"add {name} to --precision, or drop the recipe",
            )
        if formats.count(name) > 1:
            raise RecipeError(
                f"two recipes for {name} in one build", "build them into two folders, then compare"
            )


def check_metrics(minima: Mapping[str, float], task: Task) -> None:
    """Refuse a minimum of what is not measured.

    Raises:
        UsageError: The task has no such metric.
    """
    for name in minima:
        if name not in task.metrics:
            raise UsageError(
                f"--min {name}: '{task.name}' has no such metric",
                f"use --min with any of: {', '.join(task.metrics)}",
            )


def _task(value: Any) -> str:
    """A task's name or file, checked now, so that nothing is loaded for one that is not."""
    task = str(parse_path(value)) if is_task_file(str(value)) else str(value)
    get_task(task)
    return task


def _model(value: Any) -> str:
    text = str(value)
    # In a file, no shell has replaced the tilde.
    return str(parse_path(text)) if text.startswith("~") else text


def _recipes(value: Any) -> tuple[QuantRecipe, ...]:
    if isinstance(value, Mapping) or _is_inline(value):
        value = (value,)
    items = value if isinstance(value, (list, tuple)) else parse_items(value)
    return tuple(_recipe(item) for item in items)


def _is_inline(value: Any) -> bool:
    """Whether text is a recipe itself, as `build_command` writes it; no preset begins so."""
    return isinstance(value, str) and value.startswith("{")


def _recipe(item: Any) -> QuantRecipe:
    if _is_inline(item):
        try:
            item = parse_yaml(item.encode("utf-8"))
        except NotParsableError as error:
            raise RecipeError(
                f"--recipe begins with a brace and is not YAML: {error}",
                "quote it as a whole, or give a YAML file",
            ) from error
    if not isinstance(item, Mapping):
        return load_recipe(str(item))
    try:
        return recipe_from_dict(item)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RecipeError(
            f"the recipe in the configuration is not one: {type(error).__name__}: {error}",
            "it needs name, format and kinds; docs/recipes.md shows one",
        ) from error


def parse_force(value: Any) -> tuple[StageKind, ...]:
    """The value of --force, each kind of stage once.

    Raises:
        UsageError: One of them is none.
    """
    return tuple(
        dict.fromkeys(parse_member(StageKind, "force", item) for item in parse_items(value))
    )


def _high_precision(value: Any) -> FloatType:
    if str(value) not in (FloatType.FP16.value, FloatType.BF16.value):
        raise UsageError(f"unknown high-precision '{value}'", "use --high-precision fp16 or bf16")
    return FloatType(str(value))


_PARSERS: dict[str, Any] = {
    "precision": parse_precisions,
    "data_dir": parse_path,
    "engine": lambda value: parse_member(EngineChoice, "engine", value),
    "target": parse_targets,
    "backend": parse_backend,
    "high_precision": _high_precision,
    "buckets": parse_buckets,
    "max_batch": lambda value: parse_integer("max-batch", value, 1),
    "workspace_mib": lambda value: parse_integer("workspace-mib", value, 1),
    "optimization_level": lambda value: parse_integer("optimization-level", value, 0, 5),
    "hardware_compatibility": lambda value: parse_member(
        HardwareCompatibility, "hardware-compatibility", value
    ),
    "version_compatible": lambda value: parse_flag("version_compatible", value),
    "calib_samples": lambda value: parse_integer("calib-samples", value, 1),
    "seed": lambda value: parse_integer("seed", value, 0),
    "recipe": _recipes,
    "max_drop": parse_max_drop,
    "min": parse_min,
    "min_agreement": parse_min_agreement,
    "require_fusion": lambda value: parse_flag("require_fusion", value),
    "limit": lambda value: parse_integer("limit", value, 1),
    "allow_pickle": lambda value: parse_flag("allow_pickle", value),
}
