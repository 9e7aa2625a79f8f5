"""The tables that a build ends with, narrow enough for 80 columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from deploy.report.numbers import change, interval, megabytes, number, percent
from deploy.report.verdict import verdict


def print_results(results: Mapping[str, Any], console: Console) -> None:
    """Print what results.json says: accuracy, engines and gates."""
    for part in _parts(results):
        # Names come from files and may look like markup; Text is printed as it stands.
        console.print(Text(part) if isinstance(part, str) else part, soft_wrap=False)


def _parts(results: Mapping[str, Any]) -> Iterator[str | Text | Table]:
    yield f"{results['model']} on {results['task']}, {results['accuracy']['fp32']['n']} examples"
    yield ""
    yield _accuracy(results)
    if len(results["runs"]) > 1:
        yield "change against fp32, in points; changed: predictions that differ from fp32's"
    arithmetic = ", ".join(
        dict.fromkeys(run["arithmetic"] for run in results["runs"] if run["simulated"])
    )
    if arithmetic:
        yield f"* simulated: the engine's weights and codes, multiplied in {arithmetic}"
    yield ""
    yield _files(results)
    if not results["engines"]:
        yield "no engine was built"
    elif results["fusion"]:
        yield "fused of expected, in the worst profile"
    if results["gates"]:
        yield ""
    for gate in results["gates"]:
        yield gate_line(gate)
    yield ""
    yield f"verdict: {verdict(results).headline}"


def gate_line(gate: Mapping[str, Any]) -> Text:
    """A gate and whether it holds."""
    verdict = ("holds", "green") if gate["passed"] else ("does not hold", "bold red")
    limits = f"{number(gate['value'])}, limit {number(gate['limit'])}"
    return Text.assemble(f"gate {gate['name']}: {limits}: ", verdict)


def table_of(columns: Mapping[str, bool]) -> Table:
    """A table of named columns; True aligns to the right. Only the last one may wrap."""
    # Left padding only: the box adds a space between columns.
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 0, 0, 1))
    *fixed, last = columns
    for name in fixed:
        table.add_column(name, justify="right" if columns[name] else "left", no_wrap=True)
    table.add_column(last, justify="right" if columns[last] else "left", overflow="fold")
    return table


def accuracy_table(
    heading: str, runs: Iterable[tuple[str, Mapping[str, Any], Mapping[str, Any] | None]]
) -> Table:
    """Every metric of every run, a line each.

    Args:
        heading: Of the first column.
        runs: Label, run, and its comparison with FP32, None for FP32 itself; as in results.json.
    """
    table = table_of(
        {
            heading: False,
            "metric": False,
            "%": True,
            "change": True,
            "95 % interval": True,
            "changed": True,
            "executed by": False,
        }
    )
    shown = tuple(runs)
    sizes = {run["n"] for _, run, _ in shown}
    for label, run, comparison in shown:
        executed = run["backend"] + (f", {run['n']} examples" if len(sizes) > 1 else "")
        for index, metric in enumerate(run["metrics"]):
            first = index == 0
            table.add_row(
                label + ("*" if run["simulated"] else "") if first else "",
                metric,
                percent(run["metrics"][metric]),
                change(comparison[metric]) if comparison else "",
                interval(comparison[metric]) if comparison else "",
                str(comparison["changed"]) if comparison and first else "",
                executed if first else "",
            )
    return table


def _accuracy(results: Mapping[str, Any]) -> Table:
    return accuracy_table(
        "precision",
        (
            (run["precision"], run, run.get("compare") or results["compare"].get(run["precision"]))
            for run in results["runs"]
        ),
    )


def _files(results: Mapping[str, Any]) -> Table:
    if not results["engines"]:
        table = table_of({"ONNX MB": True, "precision": False})
        for precision, onnx in results["onnx"].items():
            table.add_row(megabytes(onnx["bytes"]), precision)
        return table
    table = table_of(
        {
            "precision": False,
            "ONNX MB": True,
            "plan MB": True,
            "GEMMs": True,
            "attention": True,
            "engine": False,
        }
    )
    for precision, onnx in results["onnx"].items():
        fusion = results["fusion"].get(precision)
        engines = [each for each in results["engines"] if each["precision"] == precision]
        gemms = attention = ""
        if fusion and fusion["expected_gemms"]:  # none are expected of FP16
            gemms = f"{fusion['quantized_gemms']} of {fusion['expected_gemms']}"
        if fusion:
            attention = f"{fusion['fused_attention']} of {fusion['expected_attention']}"
        head = (precision, megabytes(onnx["bytes"]))
        for engine in engines:
            what = f"{engine['flavour']} {engine['version']}, {engine['target']}"
            table.add_row(*head, megabytes(engine["bytes"]), gemms, attention, what)
            head, gemms, attention = ("", ""), "", ""
        if not engines:
            table.add_row(*head, "", "", "", "not built")
    return table
