"""What a tuning run ends with: the ranked units, and what the recipe costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from deploy.cli.tables import accuracy_table, gate_line
from deploy.report.numbers import number, percent

# Heading and alignment; two lines each, so that eleven columns fit into 80.
_UNIT_COLUMNS = (
    "\nunit",
    "damage\n%",
    "error %\nonly",
    "\nbut it",
    "changed\nonly",
    "\nbut it",
    "drop\nonly",
    "\nbut it",
    "saves\nµs",
    "\ntype",
)


def print_tuning(results: Mapping[str, Any], console: Console) -> None:
    """Print what tune.json says."""
    for part in _parts(results):
        # Names come from files and may look like markup; Text is printed as it stands.
        console.print(Text(part) if isinstance(part, str) else part, soft_wrap=False)


def _parts(results: Mapping[str, Any]) -> Iterator[str | Text | Table]:
    tuning, benefit = results["tuning"], results["benefit"]
    yield (
        f"{results['model']} on {results['task']}, recipe {results['base']['name']}, "
        f"{tuning['n']} training examples"
    )
    yield ""
    yield _units(results)
    yield (
        "in the order of damage per benefit. only: nothing else is quantized; but it:\n"
        "everything else is. damage: what it adds to the squared error of the outputs,\n"
        "which is 100 % with all quantized (damage overlaps, so shares may sum to more);\n"
        f"changed: predictions unlike fp32's; drop: of {results['metric']}, in points;\n"
        f"saves: {benefit['description']}"
    )
    yield ""
    yield from _verdict(results)
    yield ""
    yield _accuracy(results)
    arithmetic = results["dev"]["runs"]["tuned"]["arithmetic"]
    yield "change against fp32, in points; changed: predictions that differ from fp32's"
    yield f"* simulated: the engine's weights and codes, multiplied in {arithmetic}"
    yield ""
    for gate in results["gates"]:
        yield gate_line(gate)
    tuning_gate, dev_gate = results["gates"]
    if tuning_gate["passed"] and not dev_gate["passed"]:
        # Where the training examples show no drop at all, no limit is low enough.
        lever = ", or lower --max-drop" if tuning_gate["value"] > 0 else ""
        yield "the training examples do not show what dev loses:"
        yield f"raise --tune-samples{lever}"


def _units(results: Mapping[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
    for name in _UNIT_COLUMNS:
        text = name.endswith(("unit", "type"))
        table.add_column(name, justify="left" if text else "right", no_wrap=True)
    units, metric = results["units"], results["metric"]
    for unit in units:
        only, without = unit["only"], unit["without"]
        kept = unit["quantized"]
        table.add_row(
            unit["name"],
            f"{100 * unit['damage_share']:.1f}",
            percent(only["error"]),
            percent(without["error"]),
            str(only["changed"]),
            str(without["changed"]),
            percent(only[metric]["drop"]),
            percent(without[metric]["drop"]),
            f"{1e6 * unit['benefit_seconds']:.2f}",
            results["precision"] if kept else results["config"]["high_precision"],
            style=None if kept else "bold",
        )
    return table


def _verdict(results: Mapping[str, Any]) -> Iterator[str]:
    """What the search did, in words."""
    base, fallbacks, units = results["tuning"]["base"], results["fallbacks"], results["units"]
    metric, precision = results["metric"], results["precision"]
    lost = number(round(base[metric]["relative_drop"], 4))
    if not fallbacks:
        yield (
            f"nothing falls back: with everything in {precision}, {metric} drops by {lost} "
            f"(relative)\non the training examples, within {number(results['max_drop'])}; "
            f"{base['changed']} predictions change"
        )
        return
    benefit = results["benefit"]
    left = benefit["seconds_tuned"] / benefit["seconds_base"] if benefit["seconds_base"] else 0.0
    yield (
        f"back in {results['config']['high_precision']}, {len(fallbacks)} of {len(units)} units: "
        f"{', '.join(fallbacks)}"
    )
    reached = number(round(results["tuning"]["tuned"][metric]["relative_drop"], 4))
    yield (
        f"relative drop of {metric} on the training examples: {lost} -> {reached}; "
        f"{100 * left:.0f} % of\nthe time saved remains, {benefit['description']}"
    )
    if len(fallbacks) == len(units):
        yield "nothing is left to quantize: build --precision fp16 instead"


def _accuracy(results: Mapping[str, Any]) -> Table:
    dev = results["dev"]
    return accuracy_table(
        "dev",
        (
            (run["recipe"] or name, run, dev["compare"].get(name))
            for name, run in dev["runs"].items()
        ),
    )
