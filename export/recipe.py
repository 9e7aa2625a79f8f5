"""Quantization recipes: which sites, in which format, how fine, and from which calibrator."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from calib_data.parsing import NotParsableError, parse_yaml
from export.errors import RecipeError
from export.sites import ATTENTION_KINDS, Site, SiteKind


class QuantFormat(str, Enum):
    """An 8-bit format that Q/DQ nodes quantize to."""

    FP8 = "fp8"
    INT8 = "int8"

    @property
    def max_value(self) -> float:
        """Largest magnitude of the format; a scale is amax divided by it.

        E4M3: 448 (Micikevicius et al., FP8 Formats for Deep Learning, 2022, table 1). INT8: 127,
        the symmetric range that TensorRT uses.
        """
        return 448.0 if self is QuantFormat.FP8 else 127.0


class Granularity(str, Enum):
    """How many scales a weight has; activations are always per-tensor."""

    PER_TENSOR = "per-tensor"
    PER_CHANNEL = "per-channel"


class CalibrationMethod(str, Enum):
    """How an amax is derived from what a site was seen to carry."""

    MAX = "max"
    PERCENTILE = "percentile"
    MSE = "mse"
    ENTROPY = "entropy"


@dataclass(frozen=True)
class Calibrator:
    """A calibration method and its parameter.

    Attributes:
        method: How the amax is derived.
        percentile: For `percentile` only: per cent of the values that lie below the amax.
    """

    method: CalibrationMethod = CalibrationMethod.MAX
    percentile: float | None = None

    def __post_init__(self) -> None:
        if (self.method is CalibrationMethod.PERCENTILE) != (self.percentile is not None):
            raise RecipeError(
                f"calibrator '{self.method.value}' with percentile {self.percentile}",
                "give `percentile` with method percentile, and with no other",
            )
        if self.percentile is not None and not 50 < self.percentile <= 100:
            raise RecipeError(
                f"percentile {self.percentile} is outside (50, 100]", "use a value such as 99.99"
            )

    def __str__(self) -> str:
        if self.percentile is None:
            return self.method.value
        return f"{self.method.value} {self.percentile:g}"


@dataclass(frozen=True)
class KindRecipe:
    """How all sites of one kind are quantized.

    Attributes:
        calibrator: Source of the amax. The softmax output ignores it: its range is [0, 1].
        granularity: Per-channel is for weights alone.
    """

    calibrator: Calibrator = Calibrator()
    granularity: Granularity = Granularity.PER_TENSOR


@dataclass(frozen=True)
class QuantRecipe:
    """A complete decision about quantizing an encoder.

    Attributes:
        name: Shown in results and reports.
        format: One format for the whole engine: TensorRT cannot mix FP8 and INT8 before Blackwell.
        kinds: Site kinds that are quantized, and how; a kind that is absent stays high precision.
        exclude: Shell patterns of site names that stay high precision all the same.
        center_attention: Whether k and v are quantized relative to their channel means
            (`export.rules.center_attention`).
        smoothquant: Migration strength of SmoothQuant on what LayerNorms feed to linears
            (`export.rules.smooth_layernorm`); their range is then the max, whatever the calibrator:
            any other would cost a second pass over the data. None: no SmoothQuant.
    """

    name: str
    format: QuantFormat
    kinds: Mapping[SiteKind, KindRecipe]
    exclude: tuple[str, ...] = field(default=())
    center_attention: bool = False
    smoothquant: float | None = None

    def __post_init__(self) -> None:
        if self.smoothquant is not None and not 0 < self.smoothquant < 1:
            raise RecipeError(
                f"recipe '{self.name}' has smoothquant {self.smoothquant}, outside (0, 1)",
                "use 0.5, as its authors do: 0 leaves all to the activations, 1 to the weights",
            )
        if self.smoothquant is not None and SiteKind.LINEAR_INPUT not in self.kinds:
            raise RecipeError(
                f"recipe '{self.name}' smooths what linears read and does not quantize it",
                "list linear_input and linear_weight, or leave smoothquant out",
            )
        quantized = ATTENTION_KINDS & self.kinds.keys()
        if self.center_attention and not quantized:
            raise RecipeError(
                f"recipe '{self.name}' centers attention and does not quantize it",
                "list attention_q, attention_k, attention_p and attention_v, or leave "
                "center_attention out",
            )
        if quantized and quantized != ATTENTION_KINDS:
            missing = ", ".join(sorted(kind.value for kind in ATTENTION_KINDS - quantized))
            raise RecipeError(
                f"recipe '{self.name}' quantizes a part of attention, without {missing}",
                "quantize q, k, p and v together or not at all: a lone one blocks the fused kernel",
            )
        if (SiteKind.LINEAR_INPUT in self.kinds) != (SiteKind.LINEAR_WEIGHT in self.kinds):
            raise RecipeError(
                f"recipe '{self.name}' quantizes only one operand of the linears",
                "list both linear_input and linear_weight, or neither",
            )
        for kind, how in self.kinds.items():
            if how.granularity is Granularity.PER_CHANNEL and kind is not SiteKind.LINEAR_WEIGHT:
                raise RecipeError(
                    f"recipe '{self.name}' asks for per-channel scales on {kind.value}",
                    "use per-tensor: a per-channel activation scale cannot leave the GEMM",
                )
            if (
                how.calibrator.method is CalibrationMethod.ENTROPY
                and self.format is QuantFormat.FP8
            ):
                raise RecipeError(
                    f"recipe '{self.name}' asks for entropy calibration of FP8",
                    "use max, percentile or mse: entropy assumes the evenly spaced levels of INT8",
                )

    def selects(self, site: Site) -> bool:
        """Whether the recipe quantizes a site."""
        return site.kind in self.kinds and not any(
            fnmatchcase(site.name, pattern) for pattern in self.exclude
        )


# A branch of a residual or a GELU's input stands beside a GEMM, not in it: each may go alone.
FREE_KINDS = frozenset({SiteKind.RESIDUAL_INPUT, SiteKind.GELU_INPUT})


def select_sites(recipe: QuantRecipe, sites: Iterable[Site]) -> tuple[Site, ...]:
    """The sites that a recipe quantizes, checked for what an engine can run.

    Raises:
        RecipeError: A pattern of `exclude` matches no site, or exclusions leave a linear with one
            quantized operand, or an attention with some of q, k, p and v.
    """
    sites = tuple(sites)
    for pattern in recipe.exclude:
        if not any(fnmatchcase(site.name, pattern) for site in sites):
            raise RecipeError(
                f"recipe '{recipe.name}' excludes '{pattern}', which matches no site",
                "copy a site name from calibration.json",
            )
    chosen = tuple(site for site in sites if recipe.selects(site))
    chosen_names = {site.name for site in chosen}
    operands: dict[str, set[bool]] = {}
    for site in sites:
        if site.kind in recipe.kinds and site.kind not in FREE_KINDS:
            for module in site.modules:
                operands.setdefault(module, set()).add(site.name in chosen_names)
    torn = sorted(module for module, states in operands.items() if len(states) > 1)
    if torn:
        raise RecipeError(
            f"recipe '{recipe.name}' excludes only a part of what '{torn[0]}' multiplies",
            "exclude every site of the module: both operands of a linear, or q, k, p and v",
        )
    return chosen


def _activations(calibrator: Calibrator, weights: KindRecipe) -> dict[SiteKind, KindRecipe]:
    activation = KindRecipe(calibrator)
    return {
        SiteKind.LINEAR_INPUT: activation,
        SiteKind.LINEAR_WEIGHT: weights,
        SiteKind.ATTENTION_Q: activation,
        SiteKind.ATTENTION_K: activation,
        SiteKind.ATTENTION_P: KindRecipe(),
        SiteKind.ATTENTION_V: activation,
    }


_P99_9 = Calibrator(CalibrationMethod.PERCENTILE, 99.9)
_P99_99 = Calibrator(CalibrationMethod.PERCENTILE, 99.99)
_PER_CHANNEL = KindRecipe(granularity=Granularity.PER_CHANNEL)

PRESETS: dict[str, QuantRecipe] = {
    recipe.name: recipe
    for recipe in (
        QuantRecipe("fp8", QuantFormat.FP8, _activations(Calibrator(), _PER_CHANNEL)),
        # NVIDIA's MLPerf BERT: residual branches and GELU inputs too, so that fewer tensors of
        # 16 bits are written, for less accuracy.
        QuantRecipe(
            "fp8-mlperf",
            QuantFormat.FP8,
            {
                **_activations(_P99_9, KindRecipe()),
                SiteKind.RESIDUAL_INPUT: KindRecipe(_P99_9),
                SiteKind.GELU_INPUT: KindRecipe(_P99_9),
            },
        ),
        QuantRecipe(
            "int8",
            QuantFormat.INT8,
            _activations(_P99_99, _PER_CHANNEL),
            center_attention=True,
            smoothquant=0.5,
        ),
        # Xiao et al. 2023, with attention quantized as well.
        QuantRecipe(
            "int8-smoothquant",
            QuantFormat.INT8,
            _activations(Calibrator(), _PER_CHANNEL),
            smoothquant=0.5,
        ),
        # What papers call INT8 post-training quantization; a baseline, not a recommendation.
        QuantRecipe(
            "int8-naive",
            QuantFormat.INT8,
            {SiteKind.LINEAR_INPUT: KindRecipe(), SiteKind.LINEAR_WEIGHT: KindRecipe()},
        ),
    )
}


def load_recipe(name_or_file: str) -> QuantRecipe:
    """Take a preset by name, or read a recipe from a YAML file.

    Raises:
        RecipeError: Neither a preset nor a readable file, or its content is not a recipe.
    """
    if name_or_file in PRESETS:
        return PRESETS[name_or_file]
    path = Path(name_or_file)
    if not os.path.isfile(path):  # noqa: PTH113 - pathlib raises where a name is too long
        raise RecipeError(
            f"'{name_or_file}' is neither a recipe preset nor a file",
            f"use --recipe with one of {', '.join(PRESETS)}, or with a YAML file",
        )
    try:
        return recipe_from_dict(parse_yaml(path.read_bytes()))
    except OSError as error:
        raise RecipeError(
            f"cannot read '{path}': {error.strerror}", "check where the recipe lies"
        ) from error
    except NotParsableError as error:
        where = f"{path}:{error.line}" if error.line else str(path)
        raise RecipeError(f"'{where}' is not YAML: {error}", "mend the file's syntax") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RecipeError(
            f"'{path}' is not a recipe: {error}",
            "it needs name, format and kinds; docs/recipes.md shows one",
        ) from error


def recipe_to_dict(recipe: QuantRecipe) -> dict[str, Any]:
    """The recipe as plain data, for YAML and JSON."""
    plain: dict[str, Any] = {
        "name": recipe.name,
        "format": recipe.format.value,
        "kinds": {
            kind.value: {
                "granularity": how.granularity.value,
                "calibrator": {
                    key: getattr(value, "value", value)
                    for key, value in asdict(how.calibrator).items()
                    if value is not None
                },
            }
            for kind, how in recipe.kinds.items()
        },
    }
    if recipe.exclude:
        plain["exclude"] = list(recipe.exclude)
    if recipe.center_attention:
        plain["center_attention"] = True
    if recipe.smoothquant is not None:
        plain["smoothquant"] = recipe.smoothquant
    return plain


def recipe_from_dict(plain: Mapping[str, Any]) -> QuantRecipe:
    """The inverse of `recipe_to_dict`; a key that it does not know is a ValueError."""
    _refuse_unknown(
        plain, {"name", "format", "kinds", "exclude", "center_attention", "smoothquant"}
    )
    center = plain.get("center_attention", False)
    if not isinstance(center, bool):
        raise ValueError(f"center_attention is {center!r}, not true or false")
    alpha = plain.get("smoothquant")
    return QuantRecipe(
        name=str(plain["name"]),
        format=QuantFormat(plain["format"]),
        kinds={SiteKind(kind): _kind_from_dict(how) for kind, how in plain["kinds"].items()},
        exclude=_patterns(plain.get("exclude", [])),
        center_attention=center,
        smoothquant=None if alpha is None else float(alpha),
    )


def _patterns(plain: Any) -> tuple[str, ...]:
    if not isinstance(plain, list) or not all(isinstance(pattern, str) for pattern in plain):
        raise ValueError(f"exclude is {plain!r}, not a list of names")
    return tuple(plain)


def _kind_from_dict(plain: Mapping[str, Any] | None) -> KindRecipe:
    plain = plain or {}
    if "format" in plain:
        raise RecipeError(
            "a recipe gives one of its kinds a format of its own",
            "set `format` once, for all: TensorRT cannot mix FP8 and INT8 in one engine before "
            "Blackwell",
        )
    _refuse_unknown(plain, {"granularity", "calibrator"})
    calibrator = plain.get("calibrator", {"method": "max"})
    _refuse_unknown(calibrator, {"method", "percentile"})
    return KindRecipe(
        Calibrator(CalibrationMethod(calibrator["method"]), calibrator.get("percentile")),
        Granularity(plain.get("granularity", Granularity.PER_TENSOR.value)),
    )


def _refuse_unknown(plain: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(str(key) for key in plain.keys() - known)
    if unknown:
        raise ValueError(f"unknown key '{unknown[0]}'; known are {', '.join(sorted(known))}")
