from __future__ import annotations

import io
import json
from typing import Any

import pytest
from html_check import plain, read_html
from report_results import full_results, measurements, with_latency
from rich.console import Console

from deploy.cli.compare_tables import print_comparison
from deploy.evaluation.results import with_evaluation
from deploy.report.builds import compare_builds
from deploy.report.comparison import comparison_html, comparison_markdown

HOSTILE = "<script>[bold]|x`"


@pytest.fixture
def builds() -> list[dict[str, Any]]:
    """Two builds of one model; the second one's FP8 is better, and slower."""
    first, second = full_results(), with_latency(full_results(), measurements(fp8=0.75))
    second["compare"]["fp8"]["accuracy"].update(drop=-0.001, ci95=[-0.004, 0.002])
    second["runs"][1]["recipe"] = "fp8-mlperf"
    return [first, second]


def test_a_row_for_each_precision_of_each_build(builds):
    rows = compare_builds(["a", "b"], builds)["rows"]
    assert [(row["build"], row["precision"]) for row in rows] == [
        (build, precision) for build in (1, 2) for precision in ("fp32", "fp8", "int8", "fp16")
    ]
    fp8 = rows[5]
    assert fp8["recipe"] == "fp8-mlperf"
    assert fp8["metrics"]["accuracy"] == {
        "value": 0.896,
        **builds[1]["compare"]["fp8"]["accuracy"],
    }
    assert fp8["fusion"] == {
        "quantized_gemms": 72,
        "expected_gemms": 72,
        "fused_attention": 10,
        "expected_attention": 12,
    }
    assert [plan["bytes"] for plan in fp8["plans"]] == [36_000_000, 37_000_000]
    assert rows[0]["agreement"] is rows[0]["changed"] is rows[0]["fusion"] is None


def test_a_row_names_what_its_own_numbers_were_executed_by(builds):
    fp8 = {**builds[0]["runs"][1], "compare": builds[0]["compare"]["fp8"], "simulated": False}
    for accuracy, facts in (
        (0.91, {"backend": "torch", "simulated_parts": ["attention"], "arithmetic": "fp8, fp16"}),
        (0.92, {"backend": "torch", "simulated_parts": [], "arithmetic": "fp8"}),
        (0.93, {"backend": "torch", "simulated_parts": ["gemm"], "arithmetic": "fp16"}),
    ):
        found = {**fp8, **facts, "metrics": {"accuracy": accuracy, "f1": 0.9}}
        builds[0] = with_evaluation(builds[0], {"runs": [found], "changed_examples": {}})
    row = compare_builds(["a", "b"], builds)["rows"][1]
    shown = (row["metrics"]["accuracy"]["value"], row["backend"], row["arithmetic"])
    assert shown == (0.92, "torch", "fp8")


def test_latencies_are_those_of_shapes_that_all_measured(builds):
    builds[1]["latency"] = [row for row in builds[1]["latency"] if row["sequence"] == 128]
    for row in builds[1]["latency"]:
        row["simulated"] = row["precision"] == "int8"
    latency = compare_builds(["a", "b"], builds)["latency"]
    assert {(row["batch"], row["sequence"]) for row in latency} == {(1, 128), (8, 128)}
    of_second = {row["precision"] for row in latency if row["build"] == 2}
    assert of_second == {"fp32", "fp16", "fp8"}  # neither the simulated one nor the baseline
    times = {row["build"]: row["p50_ms"] for row in latency if row["precision"] == "fp8"}
    assert times[1] < times[2]


def test_builds_that_compare_are_warned_of_their_latencies_alone(builds):
    (warning,) = compare_builds(["a", "b"], builds)["warnings"]
    assert warning.startswith("latencies of two builds were not taken in turn")


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        (lambda r: r.update(task="sst2"), "another task: 1: mrpc, 2: sst2"),
        (lambda r: r.update(data_fingerprint="9" * 64), "other development tokens: 1: cdcdcdcd"),
        (lambda r: r.pop("data_fingerprint"), "some builds do not say what they were evaluated on"),
        (lambda r: r["accuracy"]["fp32"].update(n=100), "another number of examples: 1: 1234"),
        (lambda r: [row.update(device="H200") for row in r["latency"]], "another processor: 1: a"),
        (lambda r: r.update(latency=[], crossover=[]), "no shape was measured in every build"),
        (
            lambda r: [run.update(simulated=False) for run in r["runs"]],
            "accuracy of another kind: 1: simulated, 2: executed",
        ),
    ],
)
def test_what_does_not_compare_is_said(change, warning, builds):
    change(builds[1])
    warnings = compare_builds(["a", "b"], builds)["warnings"]
    assert [each for each in warnings if each.startswith(warning)]


def test_100_columns_hold_every_table(builds):
    for results in builds:
        results["model"] = HOSTILE
    sink = io.StringIO()
    comparison = compare_builds(["out/a", "out/b"], builds)
    print_comparison(comparison, Console(file=sink, width=100, highlight=False))
    lines = [line.rstrip() for line in sink.getvalue().splitlines()]
    assert max(map(len, lines)) <= 100
    assert "…" not in sink.getvalue()
    assert lines[0] == f"1  out/a: {HOSTILE} on mrpc, 1234 examples"
    (row,) = [line for line in lines if "fp8-mlperf" in line]
    assert row.split() == (
        [
            "2",
            "fp8*",
            "accuracy",
            "89.60",
            "+0.10",
            "[-0.20,",
            "+0.40]",
            "onnxruntime",
            "fp8-mlperf",
        ]
    )


def test_files_say_the_same_and_escape_every_name(builds):
    builds[0]["model"] = builds[0]["runs"][1]["recipe"] = HOSTILE
    comparison = compare_builds([HOSTILE, "b"], builds)
    page = read_html(comparison_html(comparison))
    accuracy = page.all("table")[0].rows()
    assert accuracy[2][2] == HOSTILE
    assert accuracy[10][:6] == ["2", "fp8", "fp8-mlperf", "accuracy", "89.60", "+0.10"]
    assert accuracy[10][6:] == ["[-0.20, +0.40]", "99.10", "11", "onnxruntime, simulated in fp32"]
    assert HOSTILE in page.all("ol")[0].text
    assert "latencies of two builds" in plain(page.text)
    markdown = comparison_markdown(comparison)
    assert (
        "| 2 | fp8 | `fp8-mlperf` | accuracy | 89.60 | +0.10 | [-0.20, +0.40] | 99.10 | 11 |"
        in (markdown)
    )
    assert "<script>" not in markdown.replace(f"`` {HOSTILE} ``", "").replace(
        "`` <script>[bold]\\|x` ``", ""
    )


@pytest.fixture
def folders(builds, tmp_path) -> list[str]:
    names = []
    for index, results in enumerate(builds):
        folder = tmp_path / f"build{index}"
        folder.mkdir()
        (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
        names.append(str(folder))
    return names


def test_the_command_prints_writes_and_leaves_the_builds_alone(folders, builds, run_cli, tmp_path):
    file = tmp_path / "compare.html"
    ran = run_cli("compare", *folders, "--out", file, "--json")
    assert (ran.code, ran.err) == (0, "")
    comparison = compare_builds(folders, builds)
    assert json.loads(ran.out) == comparison
    assert file.read_text(encoding="utf-8") == comparison_html(comparison)
    shown = run_cli("compare", *folders, "--out", tmp_path / "compare.md").out
    assert f"comparison: {tmp_path}/compare.md" in shown
    assert {each.name for each in (tmp_path / "build0").iterdir()} == {"results.json"}


def test_wrong_usage(folders, run_cli, tmp_path):
    one = run_cli("compare", folders[0])
    assert (one.code, one.err.splitlines()[1]) == (2, "try: name two folders or more")
    ending = run_cli("compare", *folders, "--out", tmp_path / "compare.pdf")
    assert (ending.code, ending.err.splitlines()[1]) == (
        2,
        "try: give a name that ends in .html or .md",
    )
    assert run_cli("compare", folders[0], tmp_path / "none").code == 1
