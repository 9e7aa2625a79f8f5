"""The pre-flight: does TensorRT take an ONNX model, and what does it make of it?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calib_data.errors import UsageError
from calib_data.progress import Progress
from deploy.engine.builder import Flavour, supported_targets
from deploy.engine.profiles import Profile, Shape, bucket_profiles
from deploy.errors import EngineError
from deploy.option_values import parse_buckets, parse_integer, parse_targets

_TARGETS = "sm89"
_BUCKETS = "128"
_MAX_BATCH = 32


@dataclass(frozen=True)
class CheckConfig:
    """A pre-flight.

    Attributes:
        onnx: The model.
        targets: Compute capabilities to build for.
        profiles: Optimization profiles.
    """

    onnx: Path
    targets: tuple[str, ...]
    profiles: tuple[Profile, ...]


def check_config_from_dict(plain: Mapping[str, Any]) -> CheckConfig:
    """Check options by name, as the command line spells them.

    Args:
        plain: `model`, and any of `target`, `buckets`, `max_batch` and `dynamic_sequence`; the
            last alone makes one dynamic profile, beside `buckets` one more.

    Raises:
        UsageError: A value outside its range, or a target that tensorrt-rtx does not know.
    """
    batch = parse_integer("max-batch", plain.get("max_batch", _MAX_BATCH), 1)
    dynamic = plain.get("dynamic_sequence")
    profiles: tuple[Profile, ...] = ()
    if dynamic is None or "buckets" in plain:
        profiles = bucket_profiles(parse_buckets(plain.get("buckets", _BUCKETS)), batch)
    if dynamic is not None:
        profiles = (*profiles, _dynamic_profile(dynamic, batch))
    targets = parse_targets(plain.get("target", _TARGETS))
    known = supported_targets(Flavour.TENSORRT_RTX)
    for target in targets:
        if target not in known:
            raise UsageError(
                f"{Flavour.TENSORRT_RTX.value} cannot build for '{target}'",
                f"use --target with any of: {', '.join(known)}",
            )
    return CheckConfig(Path(plain["model"]), targets, profiles)


def check(config: CheckConfig, progress: Progress) -> dict[str, Any]:
    """Build a model for every target, in memory.

    Returns:
        `model` and `targets`; each target with `accepted`, `refusal` (what the parser or the
        builder said, or null) and `report` (see `summarize`; null if refused).

    Raises:
        ToolchainError: The file is not one that a builder could be asked about.
    """
    # A mistake on the command line is told without importing what reads models.
    from deploy.engine.layer_summary import summarize
    from deploy.engine.preflight import check_target, read_model

    with progress.status(f"Reading {config.onnx.name}"):
        model = read_model(config.onnx, config.profiles)
    targets = []
    for target in config.targets:
        found: dict[str, Any] = {"target": target, "accepted": True, "refusal": None}
        try:
            report = check_target(config.onnx, model, config.profiles, target, progress)
            found["report"] = summarize(report)
        except EngineError as error:
            refusal = {"message": error.message, "remedy": error.remedy}
            found.update(accepted=False, refusal=refusal, report=None)
        targets.append(found)
    return {"model": str(config.onnx), "targets": targets}


def _dynamic_profile(text: str, max_batch: int) -> Profile:
    """The profile of "16:128:384": shortest, tuned-for and longest sequence."""
    parts = text.split(":")
    if len(parts) != 3:
        raise UsageError(
            f"--dynamic-sequence is '{text}'", "give shortest:tuned:longest, such as 16:128:384"
        )
    low, best, high = (parse_integer("dynamic-sequence", part, 1) for part in parts)
    if not low <= best <= high:
        raise UsageError(
            f"--dynamic-sequence {text} does not ascend",
            "give shortest:tuned:longest, such as 16:128:384",
        )
    (bucket,) = bucket_profiles((best,), max_batch)
    return Profile(
        Shape(bucket.min.batch, low), Shape(bucket.opt.batch, best), Shape(max_batch, high)
    )
