"""The tables that a build ends with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from deploy.report.markdown import describe, megabytes, percent, points, summaries


def print_results(results: Mapping[str, Any], console: Console) -> None:
    """Print what results.json says: accuracy, engines and gates."""
    console.print(_accuracy(results))
    console.print(_engines(results))
    for gate in results["gates"]:
        value = "unknown" if gate["value"] is None else f"{gate['value']:g}"
        verdict = "[green]holds[/]" if gate["passed"] else "[bold red]does not hold[/]"
        console.print(f"gate {gate['name']}: {value}, limit {gate['limit']:g}: {verdict}")


def _accuracy(results: Mapping[str, Any]) -> Table:
    metrics = summaries(results)["metrics"]
    table = Table(
        title=f"{results['task']}, {results['accuracy']['fp32']['n']} examples",
        title_justify="left",
        caption="change against FP32 in points, with its 95 % interval",
        caption_justify="left",
    )
    table.add_column("precision")
    for metric in metrics:
        table.add_column(f"{metric} %", justify="right")
        table.add_column("change", justify="right")
    table.add_column("changed", justify="right")
    table.add_column("executed by")
    for run in results["runs"]:
        comparison = results["compare"].get(run["precision"])
        cells = []
        for metric in metrics:
            cells.append(percent(run["metrics"][metric]))
            cells.append(points(comparison[metric]) if comparison else "")
        changed = str(comparison["changed"]) if comparison else ""
        table.add_row(run["precision"], *cells, changed, describe(run))
    return table


def _engines(results: Mapping[str, Any]) -> Table:
    table = Table(title="engines", title_justify="left")
    table.add_column("precision")
    for column in ("ONNX MB", "plan MB", "8-bit GEMMs", "fused attention"):
        table.add_column(column, justify="right")
    table.add_column("built by")
    for precision, onnx in results["onnx"].items():
        engines = [e for e in results["engines"] if e["precision"] == precision]
        fusion = results["fusion"].get(precision)
        table.add_row(
            precision,
            megabytes(onnx["bytes"]),
            ", ".join(megabytes(engine["bytes"]) for engine in engines),
            f"{fusion['quantized_gemms']} of {fusion['expected_gemms']}" if fusion else "",
            f"{fusion['fused_attention']} of {fusion['expected_attention']}" if fusion else "",
            ", ".join(f"{e['flavour']} {e['version']} {e['target']}" for e in engines) or "-",
        )
    return table
