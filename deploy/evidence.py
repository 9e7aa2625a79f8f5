"""Which of several runs of a precision counts: the one rule for results, verdict and comparison."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from deploy.engine.session import Backend

Run = Mapping[str, Any]
"""An entry of `runs` in results.json."""

_ENGINES = frozenset(each.value for each in (Backend.TENSORRT, Backend.TENSORRT_RTX))


def best_evidence(runs: Iterable[Run]) -> dict[str, Run]:
    """The run that says most of each precision, in the order in which these first ran.

    It is the one on the most examples; of those one that an engine executed before one that
    something else executed, and that before one that was simulated; of those the one that left less
    of the graph to another arithmetic; of those the last.
    """
    best: dict[str, Run] = {}
    for run in runs:
        known = best.get(run["precision"])
        if known is None or _worth(run) >= _worth(known):
            best[run["precision"]] = run
    return best


def shown_run(results: Mapping[str, Any], precision: str) -> Run:
    """The run whose numbers `accuracy` of results.json has.

    Args:
        results: The content of results.json.
        precision: One of `accuracy`.
    """
    runs = [run for run in results["runs"] if run["precision"] == precision]
    shown = results["accuracy"][precision]
    # Whatever was the best when they were written: what is said of the numbers is of their run.
    same = [run for run in runs if all(run.get(name) == value for name, value in shown.items())]
    return best_evidence(same or runs)[precision]


def is_engine(backend: str) -> bool:
    """Whether a backend executes plans, and not the ONNX graph that they are built from."""
    return backend in _ENGINES


def _worth(run: Run) -> tuple[int, bool, bool, int]:
    return (
        run["n"],
        not run["simulated"],
        is_engine(run["backend"]),
        -len(run.get("simulated_parts", ())),
    )
