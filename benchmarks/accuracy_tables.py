"""What accuracy.py found, summed up over calibration seeds, in Markdown and on the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table

from deploy.report.markdown import cell as code
from deploy.report.markdown import inline
from deploy.report.numbers import change, describe, interval, percent

Cell = Mapping[str, Any]


def summarize(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """One row for each checkpoint, recipe and metric.

    `drop` is the FP32 value minus the mean over seeds; `relative_drop` is its share of the FP32
    value. `ci95` spans the intervals of all seeds, so it holds what each of them leaves possible.
    """
    groups: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        recipe = cell["recipe"] or cell["precision"]
        key = (cell["model"], cell["task"], recipe, executed_by(cell))
        groups.setdefault(key, []).append(cell)
    return [
        {
            "model": model,
            "task": task,
            "recipe": recipe,
            "executed_by": by,
            "precision": group[0]["precision"],
            "simulated": group[0]["simulated"],
            "n": group[0]["n"],
            "seeds": [cell["seed"] for cell in group if cell["seed"] is not None],
            "metric": metric,
            **_spread([cell["metrics"][metric] for cell in group]),
            **_drop(group, metric),
        }
        for (model, task, recipe, by), group in groups.items()
        for metric in group[0]["metrics"]
    ]


def executed_by(cell: Cell) -> str:
    """What ran a cell's graph, and what it did otherwise than the graph says."""
    return ", ".join(part for part in (cell["backend"], cell.get("variant")) if part)


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"mean": fmean(values), "min": min(values), "max": max(values)}


def _drop(group: Sequence[Cell], metric: str) -> dict[str, Any]:
    compared = [cell["compare"] for cell in group if cell["compare"]]
    if not compared:
        return {}
    drops = [each["metric"][metric] for each in compared]
    return {
        "drop": fmean(drop["drop"] for drop in drops),
        "relative_drop": fmean(drop["relative_drop"] for drop in drops),
        "ci95": [min(drop["ci95"][0] for drop in drops), max(drop["ci95"][1] for drop in drops)],
        "agreement": fmean(each["agreement"] for each in compared),
        "changed": fmean(each["changed"] for each in compared),
    }


def render_markdown(cells: Sequence[Cell], environment: Mapping[str, Any]) -> str:
    """The whole report: how it was made, then two tables for each checkpoint."""
    parts = ["# Accuracy", "", *_preface(cells, environment)]
    for model, task in dict.fromkeys((cell["model"], cell["task"]) for cell in cells):
        own = [cell for cell in cells if (cell["model"], cell["task"]) == (model, task)]
        examples = f"{own[0]['n']} development examples"
        parts += ["", f"## {inline(model)}: {inline(task)}, {examples}", ""]
        parts += _markdown_table(_SUMMARY, _summary_rows(own, code))
        if beside := [cell for cell in own if "against_simulation" in cell]:
            parts += ["", f"{_BESIDE_TITLE}:", ""]
            parts += _markdown_table(_BESIDE, _beside_rows(beside, code))
        if quantized := [cell for cell in own if cell["seed"] is not None]:
            parts += ["", "Each calibration seed:", ""]
            parts += _markdown_table(_EACH, _each_rows(quantized))
    return "\n".join(parts) + "\n"


def print_summary(cells: Sequence[Cell], console: Console) -> None:
    """The summary as a table for each checkpoint, on the terminal."""
    for model, task in dict.fromkeys((cell["model"], cell["task"]) for cell in cells):
        own = [cell for cell in cells if (cell["model"], cell["task"]) == (model, task)]
        table = Table(title=f"{model}: {task}, {own[0]['n']} development examples")
        for name, numeric in _SUMMARY.items():
            table.add_column(name, justify="right" if numeric else "left")
        for row in _summary_rows(own, str):
            table.add_row(*row)
        console.print(table)
        if beside := [cell for cell in own if "against_simulation" in cell]:
            table = Table(title=_BESIDE_TITLE)
            for name, numeric in _BESIDE.items():
                table.add_column(name, justify="right" if numeric else "left")
            for row in _beside_rows(beside, str):
                table.add_row(*row)
            console.print(table)
    if any(cell["simulated"] for cell in cells):
        console.print(_SIMULATED)


_SIMULATED = (
    "* simulated: the engine's own weights, scales and 8-bit codes (FP16: its weights), multiplied "
    "in FP32"
)

# Column to whether it is aligned to the right.
_SUMMARY = {
    "recipe": False,
    "precision": False,
    "executed by": False,
    "metric": False,
    "mean": True,
    "min to max": True,
    "change": True,
    "95 % interval": True,
    "relative %": True,
    "agreement %": True,
}

_BESIDE_TITLE = "Executed on the GPU, against onnxruntime's simulation of the same graph"

# The distance of logits is relative, in the Frobenius norm; the effect of quantizing is the
# simulation's distance from FP32.
_BESIDE = {
    "recipe": False,
    "executed by": False,
    "seed": True,
    "metric": False,
    "change": True,
    "95 % interval": True,
    "agreement %": True,
    "logits": True,
    "effect of quantizing": True,
    "seconds": True,
    "warm-up": True,
}

_EACH = {
    "recipe": False,
    "executed by": False,
    "seed": True,
    "metric": False,
    "%": True,
    "change": True,
    "95 % interval": True,
    "relative %": True,
    "agreement %": True,
    "changed": True,
}


def _preface(cells: Sequence[Cell], environment: Mapping[str, Any]) -> Iterator[str]:
    devices = ", ".join(dict.fromkeys(str(cell["device"]) for cell in cells))
    backends = "; ".join(dict.fromkeys(describe(cell) for cell in cells))
    calibrations = [cell["identity"]["calibration"] for cell in cells if cell["seed"] is not None]
    yield f"Executed by: {backends}. Processor: {devices}; {environment['cores']} cores here."
    yield ""
    yield f"\\{_SIMULATED}."
    if calibrations:
        samples = ", ".join(str(each) for each in sorted({c["samples"] for c in calibrations}))
        seeds = ", ".join(str(each) for each in sorted({c["seed"] for c in calibrations}))
        yield ""
        yield f"Calibrated on {samples} training examples, drawn with seed {seeds}."
    yield ""
    yield (
        "Values are per cent of the development examples; changes against FP32 are in points, with "
        "the 95 % interval of a paired bootstrap over examples. Over seeds: mean, extremes, and "
        "the interval that spans those of all seeds."
    )
    versions: dict[str, str] = cells[0]["identity"]["packages"] if cells else {}
    yield ""
    yield (
        f"Python {environment['python']}, "
        + ", ".join(f"{name} {found}" for name, found in versions.items())
        + "."
    )


def _summary_rows(cells: Sequence[Cell], name: Any) -> Iterator[list[str]]:
    for row in summarize(cells):
        spread = f"{percent(row['min'])} to {percent(row['max'])}" if row["seeds"] else ""
        mark = "*" if row["simulated"] else ""
        yield [
            name(row["recipe"]),
            f"{row['precision']}{mark}",
            row["executed_by"],
            row["metric"],
            percent(row["mean"]),
            spread,
            *_changes(row if "drop" in row else None),
            percent(row["agreement"]) if "agreement" in row else "",
        ]


def _each_rows(cells: Sequence[Cell]) -> Iterator[list[str]]:
    for cell in cells:
        for metric, value in cell["metrics"].items():
            yield [
                code(cell["recipe"]),
                executed_by(cell),
                str(cell["seed"]),
                metric,
                percent(value),
                *_changes(cell["compare"]["metric"][metric]),
                percent(cell["compare"]["agreement"]),
                str(cell["compare"]["changed"]),
            ]


def _beside_rows(cells: Sequence[Cell], name: Any) -> Iterator[list[str]]:
    for cell in cells:
        beside = cell["against_simulation"]
        for metric, drop in beside["metric"].items():
            yield [
                name(cell["recipe"] or cell["precision"]),
                executed_by(cell),
                "" if cell["seed"] is None else str(cell["seed"]),
                metric,
                change(drop),
                interval(drop),
                percent(beside["agreement"]),
                f"{beside['logits_error']:.4f}",
                f"{beside['quantization_effect']:.4f}",
                f"{cell['seconds']:.1f}",
                f"{cell['warmup_seconds']:.0f}",
            ]


def _changes(drop: Mapping[str, Any] | None) -> list[str]:
    """Change in points, its interval, and the relative change in per cent."""
    if drop is None:
        return ["", "", ""]
    return [change(drop), interval(drop), change({"drop": drop["relative_drop"]})]


def _markdown_table(columns: Mapping[str, bool], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(columns) + " |"
    yield "|" + "|".join("---:" if numeric else "---" for numeric in columns.values()) + "|"
    for row in rows:
        # An asterisk begins emphasis.
        yield "| " + " | ".join(text.replace("*", "\\*") for text in row) + " |"
