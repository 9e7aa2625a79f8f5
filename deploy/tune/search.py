"""The fastest assignment whose drop stays within the limit.

Units return to high precision in a fixed order, so what is looked for is the shortest sufficient
prefix of that order, found by bisection: the drop is assumed to fall as the prefix grows. A metric
that counts predictions does so only on the whole, not from each step to the next, so a shorter
prefix may suffice that the bisection did not visit. What is guaranteed is that the assignment
returned was itself measured and holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from deploy.tune.units import Unit


@dataclass(frozen=True)
class Step:
    """An assignment that was tried.

    Attributes:
        fallbacks: Units in high precision, in the order of the search.
        drop: Relative drop of the main metric on the tuning rows.
        met: Whether it is within the limit.
    """

    fallbacks: tuple[Unit, ...]
    drop: float
    met: bool


@dataclass(frozen=True)
class Found:
    """The outcome of a search.

    Attributes:
        fallbacks: Units that stay in high precision.
        drop: Relative drop of the main metric on the tuning rows.
        met: Whether it is within the limit; if not, all units are in high precision.
        steps: Everything that was tried, in order.
    """

    fallbacks: tuple[Unit, ...]
    drop: float
    met: bool
    steps: tuple[Step, ...]


def search(
    order: Sequence[Unit], drop_of: Callable[[frozenset[Unit]], float], max_drop: float
) -> Found:
    """Find the fewest units of `order` that have to return to high precision.

    After the bisection, each unit of the prefix but the last is given a chance to be quantized
    after all, the least harmful first: it may have been carried along by its place in the order.

    Args:
        order: Units, those to give up first in front.
        drop_of: Relative drop of the main metric with these units in high precision.
        max_drop: Largest drop that is good enough.
    """
    steps: list[Step] = []

    def attempt(fallbacks: Sequence[Unit]) -> Step:
        drop = drop_of(frozenset(fallbacks))
        steps.append(Step(tuple(fallbacks), drop, drop <= max_drop))
        return steps[-1]

    best = attempt(())
    if not best.met:
        best = attempt(order)
        too_few = 0
        while best.met and len(best.fallbacks) - too_few > 1:
            middle = (too_few + len(best.fallbacks)) // 2
            step = attempt(order[:middle])
            if step.met:
                best = step
            else:
                too_few = middle
        if best.met:
            for unit in reversed(best.fallbacks[:-1]):
                step = attempt([each for each in best.fallbacks if each != unit])
                best = step if step.met else best
    return Found(best.fallbacks, best.drop, best.met, tuple(steps))


def most_steps(units: int) -> int:
    """How many assignments `search` tries at most, for an estimate of the time left."""
    return 2 + units.bit_length() + max(units - 1, 0)
