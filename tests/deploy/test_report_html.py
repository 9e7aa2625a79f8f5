from __future__ import annotations

import copy
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from html_check import Node, plain, read_html
from report_results import ENCODER, full_results, measurements, with_latency

from deploy.config import config_from_dict
from deploy.report.commands import commands
from deploy.report.html import prose, render_html, typeset
from deploy.report.markdown import render_markdown
from deploy.report.ranges import calibration_ranges

HOSTILE = "</code></title><script>alert(1)</script>\"'&<b onload=x>{{7*7}}"

# Names that this project gives, to which it has colours, classes or rules tied.
OURS = frozenset({"precision", "sweep", "backend", "clock", "format", "verdict", "target"})


@pytest.fixture
def results() -> dict[str, Any]:
    return full_results()


def table(page: Node, label: str) -> list[list[str]]:
    """The body of the table in the scrolling region of that name."""
    (region,) = [
        node for node in page.all("div") if plain(node.attributes.get("aria-label", "")) == label
    ]
    return region.all("table")[0].rows()


def markdown_rows(markdown: str, first_cell: str) -> list[list[str]]:
    """The body of the table whose header starts so."""
    lines = markdown.partition(f"\n| {first_cell}")[2].splitlines()[2:]
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip(" `") for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return rows


def test_everything_that_a_person_decides_from_is_there_verdict_first(results):
    page = read_html(render_html(results))
    headings = [heading.text for heading in page.all("h2")]
    assert headings == [
        page.all("h2")[0].text,
        *("Accuracy", "Changed examples", "Latency", "Fusion", "Size", "Calibration ranges"),
        "How it was made",
    ]
    assert headings[0].startswith("FP8 is the candidate")
    assert len(page.all("svg")) == 2 + 5 + 2 + 2 + 1  # intervals, legend, curves, sites, carried


def test_numbers_are_those_of_the_results_and_of_the_other_report(results):
    page, markdown = read_html(render_html(results)), render_markdown(results)
    assert table(page, "Accuracy of every run")[2:4] == [
        [
            *("fp8", "fp8", "accuracy", "89.60", "-0.40", "[-0.85, +0.10]", "99.10", "11"),
            "onnxruntime, simulated in fp32",
        ],
        ["", "", "f1", "87.66", "-0.34", "[-0.80, +0.20]", "", "", ""],
    ]
    assert markdown_rows(markdown, "precision | recipe")[1][:5] == [
        *("fp8", "fp8", "89.60", "-0.40 [-0.85, +0.10]", "87.66"),
    ]
    overview = table(page, "Precisions side by side")
    assert overview[1] == ["fp8", "89.60", "-0.40 [-0.85, +0.10]", "1.09x", "110.0", "36.0"]
    assert [
        [*row[:2], f"{row[2]} {row[3]}".strip(), *row[4:]]
        for row in markdown_rows(markdown, "precision | accuracy %")
    ] == overview
    for region, header in (
        ("Latencies", "batch | sequence | precision"),
        ("Which precision is the fastest where", "batch | sequence | fastest"),
        ("What did not fuse, and why", "precision | target | module"),
    ):
        shown, written = table(page, region), markdown_rows(markdown, header)
        assert shown == [row[: len(shown[0])] for row in written]
    assert [row[:5] for row in table(page, "Gates")] == [
        ["max_drop.fp8.accuracy", "0.01", "0.00444", "holds"],
        ["max_drop.int8.accuracy", "0.01", "0.0222", "does not hold"],
    ]
    assert table(page, "Sizes")[1:3] == [
        ["fp8", "110.0", "28 %", "36.0", "12.3", "tensorrt-rtx 1.7.1.116, sm89"],
        ["", "", "", "37.0", "12.3", "tensorrt-rtx 1.7.1.116, sm120"],
    ]


def test_what_did_not_fuse_takes_a_line_for_all_layers(results):
    shown = table(read_html(render_html(results)), "What did not fuse, and why")
    reason = "sequence 16: FP8 attention fuses from 32 tokens"
    assert shown == [["fp8", "sm89", "attention.self", "0-1", "16", reason]]


def test_changed_examples_are_shown_with_all_three_answers(results):
    results["changed_examples"]["fp8"]["examples"][0].update(
        expected=["a cat", "the cat"], fp32="a cat", answer="", outcome="neither"
    )
    page = read_html(render_html(results))
    first = page.all("ol")[0].children[0]
    assert [term.text for term in first.all("dt")] == ["expected", "FP32", "FP8", "outcome"]
    assert [answer.text for answer in first.all("dd")] == [
        *("a cat / the cat", "a cat margin 0.31", "(no answer) margin 0.02", "neither example 0"),
    ]
    assert "The first text of 0." in first.text
    assert "FP8: 11 changed (the first 5 are here: 4 lost, 1 neither)" in page.text
    assert "FP16 answers every example as FP32 does." in page.text
    markdown = render_markdown(results)
    assert "fp32 `a cat`, fp8 `(no answer)`. `The first text of 0.` `The second.`" in markdown
    assert "results.json has 2 more of them." in markdown


def hostile(value: Any, key: str = "") -> Any:
    """Every text that comes from outside, made as bad as it can be."""
    if isinstance(value, dict):
        outside = key in {"sites", "carried", "packages", "texts"}
        return {
            (f"{name}{HOSTILE}" if outside else name): hostile(each, name)
            for name, each in value.items()
        }
    if isinstance(value, list):
        return [hostile(each, key) for each in value]
    if isinstance(value, str) and key not in OURS:
        return value + HOSTILE
    return value


def test_nothing_from_outside_becomes_markup(results):
    bad = {**hostile(results), "config": {**results["config"], "out": HOSTILE, "model": HOSTILE}}
    page = read_html(render_html(bad))  # which knows no <script>, no <b> and no handler
    text = page.text
    for place in (
        *("org/model", "mrpc", "max_drop.fp8.accuracy", "a processor", "1.7.1.116", "lost"),
        *(
            "The second.",
            "sentence1",
            "yes",
            "FP8 attention fuses from 32 tokens",
            "attention.self",
        ),
        *("sorted by length", "NVIDIA H100, 580.12", "torch", "3.12.1", "classifier.output"),
    ):
        assert place + HOSTILE in text, place
    assert text.count("alert(1)") > 40
    drawn = [mark.attributes["class"] for mark in page.all("g")]
    assert set(drawn) <= {"fp32", "fp16", "int8", "fp8", "base1", "base2", "base3", "range"}


def test_a_script_for_a_model_name_is_text(results):
    name = "<script>alert(1)</script>"
    html = render_html({**results, "model": name})
    page = read_html(html)
    assert "<script" not in html
    assert page.all("h1")[0].text == f"{name} on mrpc"
    assert page.all("title")[0].text.startswith(f"{name} on mrpc: ")


def test_the_page_asks_for_nothing(results):
    html = render_html(results)
    assert not re.search(r"https?:|url\(|@import|<(script|link|img|iframe|object)\b", html)
    assert "default-src 'none'" in html


def without(results: dict[str, Any], *names: str) -> dict[str, Any]:
    """An earlier version did not write them."""
    return {name: value for name, value in results.items() if name not in names}


@pytest.mark.parametrize(
    "change",
    [
        lambda r: {**r, "engines": [], "fusion": {}},
        lambda r: {**without(r, "crossover", "bench_environment"), "latency": []},
        lambda r: {**r, "calibration": None},
        lambda r: {**r, "gates": []},
        lambda r: (
            {**r, "compare": {}, "runs": r["runs"][:1], "changed_examples": {}}
            | {"accuracy": {"fp32": r["accuracy"]["fp32"]}, "recipes": {}}
        ),
        lambda r: without(r, "changed_examples", "labels", "model_fingerprint", "data_fingerprint"),
        lambda r: {**r, "calibration": without(r["calibration"], "ranges")},
        lambda r: {**r, "labels": None},
    ],
    ids=[
        "engines",
        "latency",
        "calibration",
        "gates",
        "comparison",
        "new keys",
        "ranges",
        "labels",
    ],
)
def test_what_a_build_did_not_find_out_is_left_out(change, results):
    changed = change(results)
    read_html(render_html(changed))
    assert render_markdown(changed).startswith("# `org/model` on mrpc\n")


def test_rendering_is_repeatable_and_changes_nothing(results):
    before = copy.deepcopy(results)
    assert render_html(results) == render_html(results)
    assert results == before


@pytest.mark.parametrize("extreme", [0.0, 1e-6, 1.0])
def test_every_mark_lies_within_its_drawing(extreme, results):
    low, high = sorted((-extreme, extreme / 3))
    for each in results["compare"].values():
        for metric in ("accuracy", "f1"):
            each[metric] = {"drop": extreme / 3, "relative_drop": 0.0, "ci95": [low, high]}
    sites = results["calibration"]["ranges"]["sites"]
    results["calibration"]["ranges"]["sites"] = {
        name: 1e9 * extreme * index for index, name in enumerate(sites)
    }
    slow = measurements(fp8=0.001, int8=1000.0)
    page = read_html(render_html(with_latency(results, slow)))
    for drawing in page.all("svg"):
        _, _, width, height = map(float, drawing.attributes["viewbox"].split())
        for mark in drawing.all("line", "circle", "text", "polyline"):
            for name, value in mark.attributes.items():
                if name in {"x", "x1", "x2", "cx"}:
                    assert 0 <= float(value) <= width
                elif name in {"y", "y1", "y2", "cy"}:
                    assert 0 <= float(value) <= height
            for point in mark.attributes.get("points", "").split():
                x, y = map(float, point.split(","))
                assert 0 <= x <= width
                assert 0 <= y <= height


def test_simulated_latencies_draw_no_curve(results):
    for row in results["latency"]:
        row["simulated"] = row["precision"] == "fp8"
    page = read_html(render_html(results))
    (legend,) = [each for each in page.all("ul") if each.attributes.get("class") == "legend"]
    assert [item.text for item in legend.children] == ["fp32", "fp16", "int8", "torch-eager fp16"]
    assert any(row[2] == "fp8*" for row in table(page, "Latencies"))


def test_a_baseline_that_loses_is_no_loss_of_ours(results):
    page = read_html(render_html(results))
    fastest = table(page, "Which precision is the fastest where")
    assert [row[2] for row in fastest] == ["int8", "fp8", "int8", "fp8"]
    assert not any("torch-eager fp16 0." in item.text for item in page.all("li"))


def test_ranges_are_series_over_layers_and_a_residual_is_its_twin(results):
    ranges = calibration_ranges(results)
    assert [role.role for role in ranges.sites] == ["attention.self.input", "attention.self.q"]
    assert ranges.sites[1].amax == tuple(1.25 + layer for layer in range(12))
    assert ranges.carried[0].widest == 11
    assert ranges.outside == {"classifier.output": 3.41}


def test_a_residual_of_its_own_is_shown(results):
    sites = results["calibration"]["ranges"]["sites"]
    sites[f"{ENCODER}.3.attention.output.dense.residual"] = 99.0
    assert len(calibration_ranges(results).sites) == 3


def test_the_printed_command_asks_for_the_same_build(
    results, asked_of_build, tmp_path, monkeypatch
):
    found = commands(results)
    for name, content in found.files.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert asked_of_build(found.lines[0]) == config_from_dict(results["config"])


def test_a_benchmark_of_an_earlier_version_is_repeated_as_its_rows_tell(results):
    asked = results["bench_environment"]["tensorrt"].pop("config")
    effort = {name: asked[name] for name in ("iterations", "seconds", "warmup")}
    before = commands({**results, "bench_environment": {"tensorrt": {"config": asked}}}).lines
    results["bench_environment"]["tensorrt"]["effort"] = effort
    assert commands(results).lines == before
    assert before[1].startswith(
        "deploy bench 'out/a build' \\\n    --precision fp32,fp16,int8,fp8 \\\n"
    )


@pytest.mark.parametrize(
    ("written", "set_as"),
    [
        ("-0.40 [-0.85, +0.10]", "−0.40 [−0.85, +0.10]"),
        ("8 x 128: 1.32x", "8\u00a0×\u00a0128: 1.32×"),
        ("max-drop, int8-naive, 2x4, 0x1f", "max-drop, int8-naive, 2x4, 0x1f"),
        ("95 %", "95\u00a0%"),
    ],
)
def test_signs_are_set_where_they_are_meant(written, set_as):
    assert typeset(written) == set_as


def test_what_a_sentence_quotes_is_code_and_all_of_it_is_escaped():
    assert prose("run `a <b>` & -1") == "run <code>a &lt;b&gt;</code> &amp; −1"


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)

PROBE = """<script>
document.querySelectorAll("details").forEach(each => each.open = true);
document.title = [innerWidth, document.documentElement.scrollWidth,
  matchMedia("(prefers-color-scheme: dark)").matches].join(" ");
</script>"""


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
@pytest.mark.parametrize("dark", [True, False])
def test_no_browser_scrolls_sideways(dark, results, tmp_path):
    """At 390 and 1,280 pixels, every part opened; the test's copy alone has a script."""
    html = re.sub("<meta http-equiv.*\n", "", render_html({**results, "model": "m" * 200}))
    (tmp_path / "report.html").write_text(html.replace("</body>", PROBE + "</body>"))
    frames = "".join(
        f'<iframe src="report.html" style="width:{width}px;height:900px;border:0"></iframe>'
        for width in (390, 1280)
    )
    read = "[...document.querySelectorAll('iframe')].map(f => f.contentDocument.title).join()"
    outer = tmp_path / "outer.html"
    outer.write_text(f"<!doctype html>{frames}<script>onload=()=>document.title={read}</script>")
    shown = browse(outer, f"--blink-settings=preferredColorScheme={0 if dark else 1}")
    (title,) = re.findall("<title>(.*?)</title>", shown)
    for width, frame in zip((390, 1280), title.split(","), strict=True):
        inner, scrolled, is_dark = frame.split()
        assert (int(inner), is_dark) == (width, str(dark).lower())
        assert int(scrolled) <= width


def browse(page: Path, *options: str) -> str:
    """The document as a browser has it after loading."""
    flags = ("--headless=new", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files")
    command = [str(BROWSER), *flags, *options, "--dump-dom", page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
