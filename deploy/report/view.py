"""What both reports show of results.json beside its own fields, computed once for either."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deploy.report.changed import changed_examples
from deploy.report.commands import commands
from deploy.report.fusion import unfused
from deploy.report.latency import sweep_views
from deploy.report.made import made_of
from deploy.report.overview import overview
from deploy.report.ranges import calibration_ranges
from deploy.report.verdict import verdict


def report_view(results: Mapping[str, Any]) -> dict[str, Any]:
    """The variables of the templates, by name."""
    return {
        "results": results,
        "verdict": verdict(results),
        "overview": overview(results),
        "simulated": any(run["simulated"] for run in results["runs"]),
        "changed": changed_examples(results),
        "sweeps": sweep_views(results),
        "unfused": unfused(results),
        "engines": {
            name: [engine for engine in results["engines"] if engine["precision"] == name]
            for name in results["onnx"]
        },
        "ranges": calibration_ranges(results),
        "commands": commands(results),
        "facts": tuple(made_of(results)),
    }
