"""Tables of several builds, narrow enough for 100 columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from deploy.cli.tables import table_of
from deploy.report.latency import milliseconds
from deploy.report.numbers import change, interval, megabytes, percent


def print_comparison(comparison: Mapping[str, Any], console: Console) -> None:
    """Print what `compare_builds` returns."""
    for part in _parts(comparison):
        # Names come from files and may look like markup; Text is printed as it stands.
        console.print(Text(part) if isinstance(part, str) else part)


def _parts(comparison: Mapping[str, Any]) -> Iterator[str | Text | Table]:
    for each in comparison["builds"]:
        what = f"{each['model']} on {each['task']}, {each['n']} examples"
        yield f"{each['build']}  {each['name']}: {what}"
        yield f"   {each['verdict']}"
    yield ""
    yield _accuracy(comparison)
    yield "change against each build's own fp32, in points"
    if any(row["simulated"] for row in comparison["rows"]):
        yield "* simulated: the engine's weights and codes, multiplied in another arithmetic"
    yield ""
    yield _engines(comparison)
    yield "agreement with fp32; fused of expected, in the worst profile"
    if comparison["latency"]:
        yield ""
        yield _latency(comparison)
    if comparison["warnings"]:
        yield ""
    for warning in comparison["warnings"]:
        yield Text.assemble(("warning: ", "yellow"), warning)


def _accuracy(comparison: Mapping[str, Any]) -> Table:
    table = table_of(
        {
            "build": True,
            "precision": False,
            "metric": False,
            "%": True,
            "change": True,
            "95 % interval": True,
            "executed by": False,
            "recipe": False,
        }
    )
    for row in comparison["rows"]:
        for index, (name, metric) in enumerate(row["metrics"].items()):
            first, compared = index == 0, "drop" in metric
            table.add_row(
                str(row["build"]) if first else "",
                row["precision"] + ("*" if row["simulated"] else "") if first else "",
                name,
                percent(metric["value"]),
                change(metric) if compared else "",
                interval(metric) if compared else "",
                row["backend"] if first else "",
                Text(row["recipe"] or "") if first else "",
            )
    return table


def _engines(comparison: Mapping[str, Any]) -> Table:
    table = table_of(
        {
            "build": True,
            "precision": False,
            "agree %": True,
            "changed": True,
            "GEMMs": True,
            "attention": True,
            "ONNX MB": True,
            "plan MB": True,
            "engine": False,
        }
    )
    for row in comparison["rows"]:
        fusion, compared = row["fusion"], row["agreement"] is not None
        gemms = attention = ""
        if fusion:
            attention = f"{fusion['fused_attention']}/{fusion['expected_attention']}"
        if fusion and fusion["expected_gemms"]:
            gemms = f"{fusion['quantized_gemms']}/{fusion['expected_gemms']}"
        head = (
            str(row["build"]),
            row["precision"],
            percent(row["agreement"]) if compared else "",
            str(row["changed"]) if compared else "",
            gemms,
            attention,
            megabytes(row["onnx_bytes"]) if row["onnx_bytes"] else "",
        )
        for plan in row["plans"]:
            what = f"{plan['flavour']} {plan['version']}, {plan['target']}"
            table.add_row(*head, megabytes(plan["bytes"]), what)
            head = ("",) * 7
        if not row["plans"]:
            table.add_row(*head, "", "not built")
    return table


def _latency(comparison: Mapping[str, Any]) -> Table:
    table = table_of(
        {
            "batch": True,
            "sequence": True,
            "build": True,
            "precision": False,
            "p50 ms": True,
            "clock": False,
            "backend": False,
            "device": False,
        }
    )
    before = None
    for row in comparison["latency"]:
        shape = (str(row["batch"]), str(row["sequence"]))
        table.add_row(
            *(shape if shape != before else ("", "")),
            str(row["build"]),
            row["precision"],
            milliseconds(row["p50_ms"]) + ("" if row["trusted"] else "?"),
            row["clock"],
            row["backend"],
            Text(row["device"]),
        )
        before = shape
    return table
