"""`deploy bench` on a real build."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bench_fakes import DeviceTimer, contestant, measured
from checkpoints import save_random_checkpoint

from deploy.artifacts import (
    BuildFolder,
    hold_folder,
    json_text,
    read_json,
    replace_files,
    sha256,
)
from deploy.bench.baselines import Baseline
from deploy.bench.config import BenchConfig
from deploy.bench.crossover import crossover
from deploy.bench.results import with_sweep
from deploy.bench.sweep import Effort
from deploy.config import config_from_dict
from deploy.engine.session import Backend, Precision
from deploy.pipeline import build
from deploy.report.commands import commands
from deploy.report.markdown import render_markdown

QUICK = ("--iterations", "10", "--seconds", "0", "--warmup", "0")
# Documented for whoever reads results.json.
KEYS = {
    *("precision", "backend", "batch", "sequence", "p50_ms", "p90_ms", "p95_ms", "p99_ms"),
    *("throughput_per_s", "iterations", "cuda_graph", "clock", "host_copies", "simulated"),
    *("trusted", "distrust", "mean_ms", "spread", "drift", "device", "round_p50_ms", "sweep"),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return save_random_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def built(checkpoint, tmp_path_factory) -> Path:
    data = tmp_path_factory.mktemp("data") / "glue" / "SST-2"
    data.mkdir(parents=True)
    for name in ("train.tsv", "dev.tsv"):
        lines = [f"w{i} w{i + 9}\t{i % 2}" for i in range(6)]
        (data / name).write_text("\n".join(["sentence\tlabel", *lines]) + "\n", encoding="utf-8")
    out = tmp_path_factory.mktemp("build") / "out"
    options = {"model": checkpoint, "task": "sst2", "data_dir": data.parents[1], "out": out}
    options |= {"precision": "fp8", "engine": "none", "calib_samples": 4}
    build(config_from_dict({**options, "buckets": "16,32", "max_batch": 8}))
    return out


@pytest.fixture
def folder(built, tmp_path) -> BuildFolder:
    return BuildFolder(Path(shutil.copytree(built, tmp_path / "out")))


def test_measures_every_precision_at_every_shape_of_the_build(folder, run_cli):
    before = read_json(folder.results)
    ran = run_cli("bench", folder.path, *QUICK, "--json")
    assert (ran.code, ran.err) == (0, "")
    results = json.loads(ran.out)
    assert results == read_json(folder.results)
    rows = results["latency"]
    assert [(row["sequence"], row["batch"], row["precision"]) for row in rows] == [
        (sequence, batch, precision)
        for sequence in (16, 32)
        for batch in (1, 8)  # 32 exceeds the build's 8
        for precision in ("fp32", "fp8")
    ]
    for row in rows:
        assert set(row) == KEYS
        assert 0 < row["p50_ms"] <= row["p90_ms"] <= row["p95_ms"] <= row["p99_ms"]
        assert row["iterations"] >= 10
        assert (row["clock"], row["host_copies"], row["cuda_graph"]) == ("host", True, False)
        assert row["simulated"] is (row["precision"] == "fp8")
    environment = results["bench_environment"]["onnxruntime"]
    assert environment["config"]["iterations"] == 10
    assert environment["start"]["cpu"]["name"] == environment["end"]["cpu"]["name"]
    # Nothing else has changed, and the folder still vouches for its files.
    added = {"latency", "crossover", "bench_environment"}
    assert {k: v for k, v in results.items() if k not in added} == {
        k: v for k, v in before.items() if k not in added
    }
    for name, entry in read_json(folder.manifest)["files"].items():
        assert sha256(folder.path / name) == entry["sha256"], name


def test_simulated_rows_are_marked_and_not_compared(folder, run_cli):
    ran = run_cli("bench", folder.path, *QUICK, "--batch", "1", "--sequence", "16")
    assert (ran.code, ran.err) == (0, "")
    assert re.search(r"^ +1 +16 +fp8\* ", ran.out, re.MULTILINE)
    assert re.search(r"^ +1 +16 +fp32 ", ran.out, re.MULTILINE)
    assert "* simulated: fp8" in ran.out
    assert "nothing to compare" in ran.out
    assert read_json(folder.results)["crossover"] == []
    report = folder.report.read_text(encoding="utf-8")
    assert "## Latency" in report
    assert "| 1 | 16 | fp8\\* |" in report
    # And both are made again from the results alone.
    again = run_cli("report", folder.path).out
    assert ran.out.partition("\n\n")[2].partition("\nreport:")[0] in again
    assert folder.report.read_text(encoding="utf-8") == report


def test_a_baseline_is_compared_with_what_really_ran(folder, run_cli):
    shape = ("--batch", "8", "--sequence", "16,32")
    ran = run_cli("bench", folder.path, *QUICK, *shape, "--baseline", "torch-eager")
    assert (ran.code, ran.err) == (0, "")
    compared = read_json(folder.results)["crossover"]
    assert [(row["batch"], row["sequence"]) for row in compared] == [(8, 16), (8, 32)]
    for row in compared:
        names = {(entry["backend"], entry["precision"]) for entry in row["entries"]}
        assert names == {("onnxruntime", "fp32"), ("torch-eager", "fp32")}
        assert row["entries"][0]["fastest"]
        assert row["entries"][0]["p50_ms"] <= row["entries"][1]["p50_ms"]
    assert re.search(r"^batch +sequence +fastest +vs fp32 +vs baselines *$", ran.out, re.MULTILINE)
    assert "vs torch-eager fp32" in folder.report.read_text(encoding="utf-8")


def test_the_printed_command_repeats_the_benchmark(folder, checkpoint, run_cli, monkeypatch):
    asked = ("--batch", "8", "--baseline", "torch-eager", "--model", checkpoint, "--no-cuda-graph")
    results = json.loads(run_cli("bench", folder.path, *QUICK, *asked, "--json").out)
    again: list[BenchConfig] = []

    def repeat(config, *_):
        again.append(config)
        return Backend.ONNXRUNTIME, results

    monkeypatch.setattr("deploy.bench.pipeline.bench", repeat)
    program, *arguments = shlex.split(commands(results).lines[1].replace("\\\n", " "))
    assert (program, run_cli(*arguments, "--json").code) == ("deploy", 0)
    assert again == [
        BenchConfig(
            out=Path(results["config"]["out"]),
            precision=(Precision.FP32, Precision.FP8),
            backend=Backend.ONNXRUNTIME,
            batch=(8,),
            sequence=(16, 32),
            baseline=(Baseline.TORCH_EAGER,),
            model=str(checkpoint),
            cuda_graph=False,
            effort=Effort(iterations=10, seconds=0.0, warmup=0.0),
        )
    ]


def test_a_baseline_of_a_task_of_the_users_own(checkpoint, run_cli, tmp_path):
    (tmp_path / "rows.csv").write_text("body,queue\nw1 w2,no\nw3 w4,yes\n")
    task, out = tmp_path / "reviews.yaml", tmp_path / "out"
    task.write_text(
        "{name: reviews, dev: rows.csv, text: body, label: queue, labels: ['no', 'yes']}"
    )
    options = {"model": checkpoint, "task": task, "out": out, "precision": "fp32"}
    build(config_from_dict({**options, "buckets": "16", "max_batch": 1, "engine": "none"}))
    ran = run_cli("bench", out, *QUICK, "--baseline", "torch-eager")
    assert (ran.code, ran.err) == (0, "")
    backends = {row["backend"] for row in read_json(out / "results.json")["latency"]}
    assert backends == {"onnxruntime", "torch-eager"}
    task.write_text(task.read_text().replace("reviews", "another"))
    refused(run_cli, "restore the task file", out, *QUICK, "--baseline", "torch-eager")


def test_the_report_has_a_section_for_each_backend(folder, run_cli):
    run_cli("bench", folder.path, *QUICK, "--batch", "1", "--sequence", "16")
    measurements = [
        measured(contestant(precision), ms, timer=timer)
        for precision, ms in (("fp16", 0.93), ("fp8", 1.0))
        for timer in (None, DeviceTimer())
    ]
    results = with_sweep(
        read_json(folder.results), "tensorrt", measurements, crossover(measurements), {}
    )
    report = render_markdown(results)
    assert report.count("## Latency") == 1
    section = report.partition("## Latency")[2].partition("\n## ")[0]
    on_cpu, on_gpu = section.split("Measured with ")[1:]
    assert on_cpu.startswith("onnxruntime")
    assert on_gpu.startswith("tensorrt on `a processor`, device clock")
    assert "fp8 0.93x: slower than fp16 |" in on_gpu
    for text in (on_cpu, on_gpu):
        tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
        assert tables
        for table in tables:
            assert len({len(re.findall(r"\|", line)) for line in table.splitlines()}) == 1, table


def test_another_run_replaces_the_numbers_of_its_backend_only(folder, run_cli):
    results = read_json(folder.results)
    run_cli("bench", folder.path, *QUICK, "--batch", "1", "--sequence", "16")
    (fp32, fp8) = read_json(folder.results)["latency"]
    of_engine = {**fp8, "sweep": "tensorrt", "backend": "tensorrt", "simulated": False}
    earlier = {
        **results,
        "latency": [of_engine, fp32, fp8],
        "crossover": [],
        "bench_environment": {"tensorrt": {}, "onnxruntime": {}},
    }
    replace_files(folder, {folder.results: json_text(earlier)})
    only = ("--precision", "fp8", "--batch", "8", "--sequence", "16")
    assert run_cli("bench", folder.path, *QUICK, *only).code == 0
    results = read_json(folder.results)
    assert [(row["backend"], row["batch"]) for row in results["latency"]] == [
        ("tensorrt", 1),
        ("onnxruntime", 8),
    ]
    assert set(results["bench_environment"]) == {"tensorrt", "onnxruntime"}


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--precision", "fp9", "fp16"),
        ("--precision", "int8", "any of: fp32, fp8"),
        ("--precision", "", "--precision"),
        ("--backend", "frob", "onnxruntime"),
        ("--batch", "16", "--batch up to 8"),
        ("--batch", "0", "at least 1"),
        ("--batch", "a", "'a'"),
        ("--sequence", "33", "--sequence up to 32"),
        ("--sequence", ",", "--sequence"),
        ("--iterations", "0", "at least 1"),
        ("--seconds", "-1", "at least 0"),
        ("--warmup", "nan", "at least 0"),
        ("--baseline", "frob", "torch-compile"),
    ],
)
def test_wrong_usage_is_exit_2_and_writes_nothing(option, value, said, built, run_cli):
    before = (built / "results.json").read_bytes()
    ran = run_cli("bench", built, option, value)
    assert (ran.code, ran.out) == (2, "")
    assert [line.partition(" ")[0] for line in ran.err.splitlines()] == ["error:", "try:"]
    assert said in ran.err
    assert (built / "results.json").read_bytes() == before


def test_help_and_wrong_usage_load_nothing_heavy(built):
    program = f"""
import contextlib, io, sys
from deploy.cli.main import main
for arguments in (["--help"], [{str(built)!r}, "--batch", "0"]):
    sys.argv = ["deploy", "bench", *arguments]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        with contextlib.suppress(SystemExit):
            main()
print([name for name in ("torch", "transformers", "onnxruntime", "onnx") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"


def refused(run_cli, said, *arguments):
    ran = run_cli("bench", *arguments)
    assert (ran.code, ran.out) == (1, "")
    assert [line.partition(" ")[0] for line in ran.err.splitlines()] == ["error:", "try:"]
    assert said in ran.err


def test_what_is_no_finished_build_is_exit_1(folder, run_cli, tmp_path):
    refused(run_cli, "deploy build", tmp_path / "nothing", *QUICK)
    assert not (tmp_path / "nothing").exists()
    folder.manifest.unlink()
    refused(run_cli, "manifest.json", folder.path, *QUICK)


def test_a_folder_in_use_is_exit_1(folder, run_cli):
    with hold_folder(folder.path):
        refused(run_cli, "is writing", folder.path, *QUICK)


def test_a_baseline_that_cannot_run_is_exit_1(folder, run_cli):
    missing = ("--baseline", "torch-eager", "--model", folder.path / "missing")
    refused(run_cli, "--model", folder.path, *QUICK, *missing)
