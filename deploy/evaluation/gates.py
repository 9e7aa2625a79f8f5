"""Conditions under which a build may ship."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from deploy.engine.session import Precision

if TYPE_CHECKING:
    from deploy.engine.fusion import ProfileFusion
    from deploy.evaluation.compare import Comparison


@dataclass(frozen=True)
class Gate:
    """One condition and its outcome.

    Attributes:
        name: What is limited, for example `max_drop.fp8.accuracy`.
        limit: The value it may reach.
        value: The value it has; None where it could not be measured, which does not pass.
        passed: Whether the condition holds.
    """

    name: str
    limit: float
    value: float | None
    passed: bool


def drop_gates(
    comparisons: Mapping[Precision, Comparison], metric: str, max_drop: float
) -> tuple[Gate, ...]:
    """The relative drop of the main metric against FP32, at most `max_drop` in each precision."""
    return tuple(
        Gate(
            name=f"max_drop.{precision.value}.{metric}",
            limit=max_drop,
            value=comparison.metric[metric].relative_drop,
            passed=comparison.metric[metric].relative_drop <= max_drop,
        )
        for precision, comparison in comparisons.items()
    )


def minimum_gates(
    metrics: Mapping[Precision, Mapping[str, float]], minima: Mapping[str, float]
) -> tuple[Gate, ...]:
    """Each metric that has a minimum, at least that in each precision."""
    return tuple(
        Gate(
            name=f"min.{precision.value}.{metric}",
            limit=least,
            value=values[metric],
            passed=values[metric] >= least,
        )
        for precision, values in metrics.items()
        for metric, least in minima.items()
    )


def agreement_gates(
    comparisons: Mapping[Precision, Comparison], min_agreement: float
) -> tuple[Gate, ...]:
    """The share of examples that FP32 and each precision answer alike, at least so much."""
    return tuple(
        Gate(
            name=f"min_agreement.{precision.value}",
            limit=min_agreement,
            value=comparison.agreement,
            passed=comparison.agreement >= min_agreement,
        )
        for precision, comparison in comparisons.items()
    )


def limits_to_dict(limits: AccuracyLimits) -> dict[str, Any]:
    """Limits as plain data, by the names of their options."""
    return {
        "max_drop": limits.max_drop,
        "min": dict(limits.minima),
        "min_agreement": limits.min_agreement,
    }


@dataclass(frozen=True)
class AccuracyLimits:
    """What predictions are held to.

    Attributes:
        max_drop: Largest relative drop of the main metric against FP32; None for any.
        minima: Least value of a metric, by its name.
        min_agreement: Least share of examples that a precision and FP32 answer alike; None for any.
    """

    max_drop: float | None = None
    minima: Mapping[str, float] = field(default_factory=dict)
    min_agreement: float | None = None


def accuracy_gates(
    limits: AccuracyLimits,
    metric: str,
    metrics: Mapping[Precision, Mapping[str, float]],
    comparisons: Mapping[Precision, Comparison],
) -> tuple[Gate, ...]:
    """Every gate on predictions.

    Args:
        limits: What is asked for.
        metric: The main one.
        metrics: Of each precision that was built.
        comparisons: Of each precision but FP32 with FP32.
    """
    gates: tuple[Gate, ...] = ()
    if limits.max_drop is not None:
        gates += drop_gates(comparisons, metric, limits.max_drop)
    gates += minimum_gates(metrics, limits.minima)
    if limits.min_agreement is not None:
        gates += agreement_gates(comparisons, limits.min_agreement)
    return gates


def fusion_gates(
    fusion: Mapping[Precision, Sequence[ProfileFusion]], precisions: Sequence[Precision]
) -> tuple[Gate, ...]:
    """Every GEMM and attention that is quantized fused, in the worst profile of each precision.

    FP32 and FP16 engines promise no 8-bit kernel, so there is nothing to hold them to.
    """
    gates = []
    for precision in (each for each in precisions if each.quantized):
        profiles = fusion.get(precision, ())
        worst = worst_profile(profiles)
        found = None if worst is None else worst.quantized_gemms + worst.fused_attention
        expected = 0 if worst is None else worst.expected_gemms + worst.expected_attention
        gates.append(
            Gate(
                name=f"fusion.{precision.value}",
                limit=float(expected),
                value=None if found is None else float(found),
                passed=worst is not None and worst.complete,
            )
        )
    return tuple(gates)


def worst_profile(profiles: Sequence[ProfileFusion]) -> ProfileFusion | None:
    """The profile with the fewest fused GEMMs and attentions; None where none was built."""
    return min(profiles, key=lambda each: each.quantized_gemms + each.fused_attention, default=None)
