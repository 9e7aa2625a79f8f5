from __future__ import annotations

import copy
import io
import re
from contextlib import contextmanager
from typing import Any

import pytest
from report_results import full_results
from rich.console import Console

from deploy.artifacts import BuildFolder, write_json
from deploy.cli.tables import print_results
from deploy.report.markdown import cell, inline, render_markdown
from deploy.report.numbers import change, interval, number

HOSTILE = "<script>|x`"


def run(precision: str, f1: float, exact_match: float, simulated: bool) -> dict[str, Any]:
    return {
        "precision": precision,
        "recipe": precision if precision in {"fp8", "int8"} else None,
        "backend": "onnxruntime",
        "arithmetic": "fp32",
        "simulated": simulated,
        "device": "a processor",
        "metrics": {"f1": f1, "exact_match": exact_match},
        "n": 10_570,
        "seconds": 1.5,
    }


def drop(value: float, low: float, high: float) -> dict[str, Any]:
    return {"drop": value, "relative_drop": value, "ci95": [low, high]}


@pytest.fixture
def results() -> dict[str, Any]:
    """A SQuAD build: two metrics, and the widest numbers that a build prints."""
    runs = [
        run("fp32", 0.91234, 0.80055, simulated=False),
        run("fp8", 0.78889, 0.80055, simulated=True),
        run("int8", 1.0, 0.9006, simulated=True),
    ]
    return {
        "schema_version": 1,
        "model": HOSTILE,
        "task": "squad",
        "accuracy": {r["precision"]: {"metrics": r["metrics"], "n": r["n"]} for r in runs},
        "runs": runs,
        "compare": {
            "fp8": {
                "f1": drop(0.12345, 0.10111, 0.14222),
                "exact_match": drop(0.0, -0.00001, 0.00001),
                "agreement": 0.9876,
                "changed": 131,
            },
            "int8": {
                "f1": drop(-0.08766, -0.10333, -0.01),
                "exact_match": drop(-0.1, -0.15, -0.05),
                "agreement": 0.5,
                "changed": 10_000,
            },
        },
        "fusion": {},
        "engines": [],
        "onnx": {"fp32": {"bytes": 91_400_000}, "fp8": {"bytes": 35_449_999}, "int8": {"bytes": 1}},
        "recipes": {},
        "calibration": None,
        "latency": [],
        "gates": [],
        "environment": {
            "python": "3.12.1",
            "cpu": "a processor",
            "cores": 2,
            "gpus": [],
            "packages": {"torch": "2.9"},
        },
        "config": {},
    }


@pytest.fixture
def with_engines(results) -> dict[str, Any]:
    counts = {"quantized_gemms": 71, "expected_gemms": 72, "fused_attention": 12}
    counts["expected_attention"] = 12
    shape = {"batch": 1, "sequence": 384}
    return {
        **results,
        "engines": [
            {
                "precision": "fp8",
                "flavour": "tensorrt-rtx",
                "version": "1.7.1.116",
                "target": target,
                "file": f"engines/model.fp8.{target}.plan",
                "bytes": 36_000_000,
                "seconds": 12.34,
            }
            for target in ("sm89", "sm120")
        ],
        "fusion": {
            "fp8": {
                **counts,
                "unfused": ["layer0.|`odd`"],
                "profiles": [
                    {"target": "sm89", "min": shape, "opt": shape, "max": shape, "layers": 99}
                    | counts
                    | {"unfused": [{"module": "layer0.|`odd`", "reason": "<b> | why"}]}
                ],
            }
        },
    }


def rows(markdown: str, section: str) -> list[list[str]]:
    """Cells of the table below a heading, its header and rule left out."""
    body = markdown.partition(f"## {section}\n")[2].partition("\n## ")[0]
    lines = [line for line in body.splitlines() if line.startswith("|")]
    return [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def printed(results: dict[str, Any], width: int) -> str:
    sink = io.StringIO()
    print_results(results, Console(file=sink, width=width, highlight=False))
    return sink.getvalue()


def test_numbers_are_those_of_the_results(results):
    table = rows(render_markdown(results), "Accuracy")
    assert table == [
        ["fp32", "", "91.23", "", "80.05", "", "", "", "onnxruntime, fp32"],
        [
            *("fp8", "`fp8`", "78.89", "-12.35 [-14.22, -10.11]", "80.05", "0.00 [0.00, 0.00]"),
            *("98.76", "131", "onnxruntime, simulated in fp32"),
        ],
        [
            *("int8", "`int8`", "100.00", "+8.77 [+1.00, +10.33]", "90.06"),
            *("+10.00 [+5.00, +15.00]", "50.00", "10000", "onnxruntime, simulated in fp32"),
        ],
    ]


def test_every_row_of_a_table_has_the_cells_of_its_header(with_engines):
    with_engines["runs"][1]["recipe"] = HOSTILE
    with_engines["gates"] = [{"name": "g", "limit": 0.01, "value": None, "passed": False}]
    widths: list[int] = []
    for line in render_markdown(with_engines).splitlines():
        if line.startswith("|"):
            widths.append(len(re.findall(r"(?<!\\)\|", line)))
        elif widths:
            assert len(set(widths)) == 1, line
            widths = []


def test_a_hostile_model_name_stays_code(results):
    title = render_markdown(results).splitlines()[0]
    assert title == "# `` <script>|x` `` on squad"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("plain", "`plain`"),
        ("a`b", "`` a`b ``"),
        ("``", "``` `` ```"),
        ("two\nlines", "`two lines`"),
    ],
)
def test_inline_code_cannot_be_left(text, code):
    assert inline(text) == code


def test_a_pipe_is_escaped_in_a_table_only():
    assert inline("a|b") == "`a|b`"
    assert cell("a|b") == "`a\\|b`"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0.00"), (-0.0, "0.00"), (0.00004, "0.00"), (0.01, "-1.00"), (-0.01, "+1.00")],
)
def test_a_loss_is_negative_and_nothing_has_no_sign(value, shown):
    assert change(drop(value, 0.0, 0.0)) == shown


def test_interval_runs_from_the_worst_to_the_best():
    assert interval(drop(0.02, -0.01, 0.03)) == "[-3.00, +1.00]"


def test_a_value_that_was_not_measured_is_unknown():
    assert [number(None), number(-0.0), number(0.01)] == ["unknown", "0", "0.01"]


def test_the_verdict_comes_first_and_says_what_fails(results):
    results["gates"] = [{"name": "max_drop.fp8.f1", "limit": 0.01, "value": 0.2, "passed": False}]
    lines = render_markdown(results).splitlines()
    assert lines[2].startswith("**INT8 is the candidate; ")
    assert "- fp8: gate max_drop.fp8.f1 does not hold (0.2, limit 0.01)" in lines
    results["gates"] = []
    assert "No gate was set; `--max-drop 0.01`" in render_markdown(results)


def test_gates_are_listed_with_limit_and_value(results):
    results["gates"] = [
        {"name": "max_drop.fp8.f1", "limit": 0.01, "value": 0.1353, "passed": False},
        {"name": "fusion.fp8", "limit": 84.0, "value": None, "passed": False},
        {"name": "max_drop.int8.f1", "limit": 0.01, "value": -0.0, "passed": True},
    ]
    assert rows(render_markdown(results), "Gates") == [
        ["max_drop.fp8.f1", "0.01", "0.1353", "**does not hold**"],
        ["fusion.fp8", "84", "unknown", "**does not hold**"],
        ["max_drop.int8.f1", "0.01", "0", "holds"],
    ]
    lines = printed(results, width=80).splitlines()
    assert "gate max_drop.fp8.f1: 0.1353, limit 0.01: does not hold" in lines
    assert "gate max_drop.int8.f1: 0, limit 0.01: holds" in lines


def test_without_an_engine_both_say_so(results):
    markdown = render_markdown(results)
    assert [row[2] for row in rows(markdown, "Files")] == ["not built"] * 3
    assert "No engine was built" in markdown
    assert "no engine was built" in printed(results, width=80)


def test_engines_and_fusion_are_listed(with_engines):
    markdown = render_markdown(with_engines)
    assert rows(markdown, "Files")[1] == [
        *("fp8", "35.4", "tensorrt-rtx 1.7.1.116, sm89", "36.0", "12.3"),
    ]
    assert rows(markdown, "Fusion")[:1] == [
        ["fp8", "sm89", "1–1", "384", "71 of 72", "12 of 12", "99"],
    ]
    (odd,) = [line for line in markdown.splitlines() if "odd" in line]
    assert odd == "| fp8 | sm89 | `` layer0.\\|`odd` `` |  | 384 | \\<b> \\| why |"
    shown = printed(with_engines, width=80)
    assert re.search(r"^fp8 +35\.4 +36\.0 +71 of 72 +12 of 12 +tensorrt-rtx", shown, re.MULTILINE)
    assert "sm120" in shown


def test_80_columns_hold_every_row(with_engines):
    shown = printed(with_engines, width=80).splitlines()
    assert max(map(len, shown)) <= 80
    row = next(line for line in shown if line.startswith("fp8*"))
    assert row.split() == (
        ["fp8*", "f1", "78.89", "-12.35", "[-14.22,", "-10.11]", "131", "onnxruntime"]
    )


def test_names_that_look_like_terminal_markup_are_printed_as_they_are(results):
    results["model"] = "[bold]x[/] [1/2"
    assert printed(results, width=80).startswith("[bold]x[/] [1/2 on squad, 10570 examples\n")


def test_reports_are_of_the_results_that_another_command_has_just_left(
    run_cli, tmp_path, monkeypatch
):
    """It is done with the folder just as `deploy report` comes to hold it."""
    folder = BuildFolder(tmp_path)
    write_json(folder.results, full_results())

    @contextmanager
    def held_after_another(path):
        write_json(folder.results, {**full_results(), "model": "org/newer"})
        yield

    monkeypatch.setattr("deploy.artifacts.hold_folder", held_after_another)
    monkeypatch.setattr("deploy.report.writing.hold_folder", held_after_another, raising=False)
    assert run_cli("report", tmp_path).out.startswith("org/newer on mrpc")
    assert folder.report.read_text(encoding="utf-8").startswith("# `org/newer` on mrpc")


def test_rendering_does_not_change_the_results(results):
    before = copy.deepcopy(results)
    render_markdown(results)
    printed(results, width=80)
    assert results == before
