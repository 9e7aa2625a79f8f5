"""What of a folder's earlier results still holds after it was built again.

`deploy evaluate` and `deploy bench` measure for hours what a build cannot measure again, perhaps on
another machine. A measurement is of a model; it stays as long as the model's files do.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

REFERENCE = "fp32"


def carry_over(
    earlier: Mapping[str, Any], unchanged: Set[str], *, same_model: bool, same_data: bool
) -> dict[str, Any]:
    """The parts of earlier results that are still true.

    Args:
        earlier: results.json as it was.
        unchanged: Precisions whose models, plans included, are the same files as then.
        same_model: Whether the checkpoint is the same as then; baselines are of it alone.
        same_data: Whether model, task and development examples are the same as then.

    Returns:
        Entries for results.json, to be put beside what the build itself found out.
    """
    return {
        **(_evaluations(earlier, unchanged) if same_data else {}),
        **_benchmark(earlier, unchanged, same_model),
    }


def _evaluations(earlier: Mapping[str, Any], unchanged: Set[str]) -> dict[str, Any]:
    if REFERENCE not in unchanged:  # every comparison is with it
        return {}
    return {
        "runs": [run for run in earlier["runs"] if run["precision"] in unchanged],
        **{
            name: {key: value for key, value in earlier.get(name, {}).items() if key in unchanged}
            for name in ("compare", "changed_examples")
        },
    }


def _benchmark(earlier: Mapping[str, Any], unchanged: Set[str], same_model: bool) -> dict[str, Any]:
    def holds(row: Mapping[str, Any]) -> bool:
        # What another backend than the sweep's own ran is a baseline: the checkpoint itself, in a
        # precision that need not have been built.
        return same_model if row["backend"] != row["sweep"] else row["precision"] in unchanged

    rows = [row for row in earlier["latency"] if holds(row)]
    own = [row for row in rows if row["backend"] == row["sweep"]]
    if not own:  # a baseline alone compares nothing
        return {}
    measured = {row["sweep"] for row in own}
    rows = [row for row in rows if row["sweep"] in measured]
    # A comparison is of everything that was measured together.
    whole = measured - {row["sweep"] for row in earlier["latency"] if not holds(row)}
    environment = earlier.get("bench_environment", {})
    return {
        "latency": rows,
        "crossover": [row for row in earlier.get("crossover", ()) if row["sweep"] in whole],
        "bench_environment": {
            sweep: found for sweep, found in environment.items() if sweep in measured
        },
    }
