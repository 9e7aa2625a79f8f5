"""How much harm each unit does, from being the only one quantized and the only one that is not.

Agreement and the metric are reported, but they are too coarse to rank by: most units change no
prediction at all. The relative error of the outputs moves with every unit. Squares of independent
errors add up, so damage is counted in squared error:

    damage = (error(only it)^2 - error(none)^2  +  error(all)^2 - error(all but it)^2) / 2

the mean of what a unit adds when it comes first and when it comes last, which are the two ends of
its Shapley value. Both are needed: a unit that only does harm where others have done some shows in
the second difference alone, and a small unit drowns there, between two large errors. error(none) is
what the type of the unquantized rest costs. Damage below 0 is noise: such a unit costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from deploy.evaluation.deviation import Deviation
from deploy.tune.units import Unit

Measure = Callable[[frozenset[Unit]], Deviation]
"""Quantize everything but the given units, and hold it against FP32 on the tuning rows."""


@dataclass(frozen=True)
class Sensitivity:
    """One unit.

    Attributes:
        unit: The unit.
        only: All units but this one in high precision.
        without: This one alone in high precision.
        damage: What quantizing it adds to the squared relative error of the outputs.
        benefit: Seconds that quantizing it saves.
    """

    unit: Unit
    only: Deviation
    without: Deviation
    damage: float
    benefit: float

    @property
    def damage_per_benefit(self) -> float:
        """What the search orders by; a unit that saves nothing goes first, if it does harm."""
        if self.benefit > 0:
            return self.damage / self.benefit
        return float("inf") if self.damage > 0 else 0.0


def measure_units(
    units: Sequence[Unit], measure: Measure, benefits: Mapping[Unit, float]
) -> tuple[Sensitivity, ...]:
    """Measure every unit.

    Returns:
        The units, those to give up first in front.
    """
    every = frozenset(units)
    all_quantized, none_quantized = measure(frozenset()).error, measure(every).error
    found = []
    for unit in units:
        only, without = measure(every - {unit}), measure(frozenset({unit}))
        first = only.error**2 - none_quantized**2
        last = all_quantized**2 - without.error**2
        found.append(Sensitivity(unit, only, without, (first + last) / 2, benefits[unit]))
    return tuple(sorted(found, key=lambda each: each.damage_per_benefit, reverse=True))
