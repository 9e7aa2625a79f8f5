"""What a tuning run is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from calib_data.errors import UsageError
from deploy.config import BuildConfig, EngineChoice, config_from_dict
from deploy.engine.session import Precision
from export.recipe import QuantRecipe

_TUNE_SAMPLES = 512
_MAX_DROP = 0.01


@dataclass(frozen=True)
class TuneConfig:
    """A tuning run.

    Attributes:
        build: What a build of the base recipe would be asked for; no engine is built.
        tune_samples: Training rows to measure on, none of which calibrates.
        max_drop: Largest relative drop of the main metric.
    """

    build: BuildConfig
    tune_samples: int = _TUNE_SAMPLES
    max_drop: float = _MAX_DROP

    @property
    def precision(self) -> Precision:
        """The one quantized precision."""
        return self.build.precision[0]

    @property
    def base(self) -> QuantRecipe:
        """The recipe that the search starts from."""
        return self.build.recipe_for(self.precision)


def tune_config_from_dict(plain: Mapping[str, Any]) -> TuneConfig:
    """Check options by name, as `config_from_dict` does.

    Raises:
        UsageError: An unknown or missing option, a value outside its range, or a precision other
            than fp8 or int8.
        RecipeError: A recipe that cannot be read, or of another format.
    """
    options = {"max_drop": _MAX_DROP, **plain, "engine": EngineChoice.NONE.value}
    samples = options.pop("tune_samples", _TUNE_SAMPLES)
    build = config_from_dict(options)
    if len(build.precision) != 1 or not build.precision[0].quantized:
        given = ",".join(precision.value for precision in build.precision)
        raise UsageError(
            f"--precision {given}: one quantized precision is tuned at a time",
            "use --precision fp8 or --precision int8",
        )
    if samples < 1:
        raise UsageError(f"--tune-samples is {samples}", "give at least 1")
    assert build.max_drop is not None  # given above
    return TuneConfig(build, samples, build.max_drop)
