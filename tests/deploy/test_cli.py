from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer.main
from checkpoints import save_random_checkpoint
from holders import holding

from deploy.artifacts import (
    BuildFolder,
    file_hashes,
    hold_folder,
    read_json,
    write_manifest,
)
from deploy.cli.app import app
from deploy.engine.session import Backend

QUICK = ("--engine", "none", "--calib-samples", "4", "--buckets", "128")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    return save_random_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_tsv(folder / "glue" / "SST-2" / "train.tsv", rows=8)
    write_tsv(folder / "glue" / "SST-2" / "dev.tsv", rows=12)
    return folder


def write_tsv(path: Path, rows: int, header: str = "sentence\tlabel") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"w{i} w{(7 * i) % 50} w{(11 * i) % 90}\t{i % 2}" for i in range(rows)]
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")


def build_command(checkpoint: Path, data_dir: Path, out: Path) -> list[object]:
    """One real build by the real command, whose standard output is a pipe."""
    return [
        *(sys.executable, "-m", "deploy.cli.main", "build", "--model", checkpoint),
        *("--task", "sst2", "--data-dir", data_dir, "--out", out, *QUICK),
        *("--precision", "fp8,fp16", "--max-drop", "0.99"),
    ]


@pytest.fixture(scope="session")
def built(checkpoint, data_dir, tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    out = tmp_path_factory.mktemp("build") / "out"
    command = [*build_command(checkpoint, data_dir, out), "--json"]
    return out, subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_standard_output_of_a_build_is_its_results_alone(built):
    out, done = built
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert results == read_json(out / "results.json")
    assert set(results["accuracy"]) == {"fp32", "fp8", "fp16"}
    assert {gate["name"] for gate in results["gates"]} == {
        "max_drop.fp8.accuracy",
        "max_drop.fp16.accuracy",
    }


def test_a_build_that_goes_well_is_silent_on_standard_error(built):
    assert built[1].stderr == ""


def test_a_build_leaves_no_temporary_file(built):
    hidden = {path.name for path in built[0].rglob(".*")}
    assert hidden == {".lock"}


def test_the_manifest_lists_every_file(built):
    out, _ = built
    listed = set(read_json(out / "manifest.json")["files"])
    there = {path.relative_to(out).as_posix() for path in out.rglob("[!.]*") if path.is_file()}
    logs = {name for name in there if name.startswith("logs/")}
    assert len(logs) == 1
    assert listed == there - logs - {"manifest.json"}


def test_two_builds_of_the_same_inputs_are_the_same_byte_for_byte(
    built, checkpoint, data_dir, tmp_path
):
    command = build_command(checkpoint, data_dir, tmp_path / "other")
    # Sets and dictionaries of another order, if any had one.
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    subprocess.run(command, env=environment, capture_output=True, check=True, timeout=300)
    first, second = (file_hashes(BuildFolder(out)) for out in (built[0], tmp_path / "other"))
    assert first.keys() == second.keys()
    timed = ("evaluation/", "report.", "results.json")
    differing = {name for name in first if first[name] != second[name]}
    assert {name for name in differing if not name.startswith(timed)} == set()


def test_a_second_build_does_nothing_and_says_so(built, checkpoint, data_dir, run_cli):
    out, _ = built
    manifest, files = read_json(out / "manifest.json"), file_hashes(BuildFolder(out))
    command = build_command(checkpoint, data_dir, out)[3:]
    ran = run_cli(*command, "--log-level", "info")
    assert "nothing had to be done: no input, option or tool has changed" in ran.out
    assert ran.err.count("unchanged, taken over") == len(manifest["stages"])
    assert file_hashes(BuildFolder(out)) == files
    forced = run_cli(*command, "--force", "report")
    assert "nothing had to be done" not in forced.out
    refused = run_cli(*command, "--force", "frob")
    assert (refused.code, "export, calibrate" in refused.err) == (2, True)


def test_report_renders_again_what_the_build_wrote(built, run_cli):
    out, _ = built
    manifest = read_json(out / "manifest.json")
    reports = {name: (out / name).read_bytes() for name in ("report.html", "report.md")}
    (out / "report.md").unlink()
    (out / "report.html").write_text("stale", encoding="utf-8")
    ran = run_cli("report", out)
    assert (ran.code, ran.err) == (0, "")
    assert re.search(r"^fp8\* +accuracy", ran.out, re.MULTILINE)
    assert f"report: {out}/report.html" in ran.out
    assert {name: (out / name).read_bytes() for name in reports} == reports
    assert read_json(out / "manifest.json") == manifest
    assert json.loads(run_cli("report", out, "--json").out) == read_json(out / "results.json")


def test_what_the_report_needs_of_the_calibration_is_in_the_results(built):
    out, _ = built
    ranges = read_json(out / "results.json")["calibration"]["ranges"]
    table = read_json(out / "calibration.json")
    exact = {name: site["amax"] for name, site in table["sites"].items()}
    # Four significant digits.
    assert ranges["sites"] == pytest.approx(exact, rel=5e-4)
    assert ranges["carried"] == pytest.approx(table["carried"], rel=5e-4)


def test_fp16_alone_is_calibrated_for_its_range(checkpoint, data_dir, tmp_path, run_cli):
    ran = run_cli(
        *("build", "--model", checkpoint, "--task", "sst2", "--data-dir", data_dir, *QUICK),
        *("--precision", "fp16", "--limit", "3", "--out", tmp_path / "out"),
    )
    assert ran.code == 0, ran.err
    table = json.loads((tmp_path / "out" / "calibration.json").read_text(encoding="utf-8"))
    assert all(0 < amax < 65_504 for amax in table["carried"].values())


def test_a_gate_that_does_not_hold_is_exit_3(checkpoint, data_dir, tmp_path, run_cli):
    # Without an engine nothing is known to be fused, whatever the numbers.
    ran = run_cli(
        *("build", "--model", checkpoint, "--task", "sst2", "--data-dir", data_dir, *QUICK),
        *("--precision", "fp8", "--require-fusion", "--max-drop", "0.99", "--limit", "3"),
        *("--out", tmp_path / "a[b]"),
    )
    assert ran.code == 3
    assert "3 examples" in ran.out
    assert re.search(r"^gate fusion\.fp8: unknown, .*: does not hold$", ran.out, re.MULTILINE)
    assert re.search(r"^gate max_drop\.fp8\.accuracy: .*: holds$", ran.out, re.MULTILINE)
    assert f"report: {tmp_path}/a[b]/report.html" in ran.out
    assert "does not hold" in (tmp_path / "a[b]" / "report.md").read_text(encoding="utf-8")


def refuse(run_cli, code, said, out, *arguments):
    """Run a build that must be refused in two lines, and must have written nothing."""
    ran = run_cli("build", *arguments, "--out", out)
    assert ran.out == ""
    lines = ran.err.splitlines()
    assert [line.partition(" ")[0] for line in lines] == ["error:", "try:"], ran.err
    assert said in ran.err
    assert ran.code == code


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--task", "frob", "sst2"),
        ("--precision", "fp9", "fp16"),
        ("--engine", "frob", "tensorrt-rtx"),
        ("--target", "frob", "sm89"),
        ("--backend", "frob", "onnxruntime"),
        ("--recipe", "frob", "int8"),
        ("--recipe", "int8", "--precision"),
        ("--high-precision", "fp8", "bf16"),
        ("--buckets", "0", "at least"),
        ("--buckets", "a", "'a'"),
        ("--max-batch", "0", "at least 1"),
        ("--calib-samples", "0", "at least 1"),
        ("--limit", "0", "at least 1"),
        ("--max-drop", "5", "0.01"),
        ("--model", "", "--model"),
        ("--config", "missing.yaml", "missing.yaml"),
    ],
)
def test_wrong_usage_is_exit_2(option, value, said, run_cli, tmp_path):
    out = tmp_path / "out"
    refuse(run_cli, 2, said, out, "--model", "demo", "--task", "demo", option, value)
    assert not out.exists()


@pytest.mark.parametrize(
    "choice", [("--version-compatible",), ("--hardware-compatibility", "same-compute-capability")]
)
def test_what_only_datacenter_tensorrt_has_is_refused_for_rtx(choice, run_cli, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    arguments = ("--model", "demo", "--task", "demo", "--engine", "tensorrt-rtx")
    refuse(run_cli, 2, choice[0], tmp_path / "out", *arguments, *choice)


def test_ampere_has_no_fp8_to_be_compatible_with(run_cli, tmp_path):
    arguments = ("--model", "demo", "--task", "demo", "--engine", "none")
    choice = ("--hardware-compatibility", "ampere-plus")
    refuse(run_cli, 2, "no FP8 tensor cores", tmp_path / "out", *arguments, *choice)


def test_a_bucket_beyond_the_models_positions_is_exit_2(checkpoint, data_dir, run_cli, tmp_path):
    arguments = ("--model", checkpoint, "--task", "sst2", "--data-dir", data_dir)
    out = tmp_path / "out"
    refuse(run_cli, 2, "--buckets up to 130", out, *arguments, "--buckets", "64,1024")
    assert not out.exists()


@pytest.mark.parametrize(
    ("header", "rows", "said"),
    [("sentence\tverdict", 3, "no column 'label'"), ("sentence\tlabel", 0, "no examples")],
)
def test_unusable_data_is_exit_1(header, rows, said, checkpoint, run_cli, tmp_path):
    for split in ("train", "dev"):
        write_tsv(tmp_path / "d" / "SST-2" / f"{split}.tsv", rows, header)
    arguments = ("--model", checkpoint, "--task", "sst2", "--data-dir", tmp_path / "d", *QUICK)
    refuse(run_cli, 1, said, tmp_path / "out", *arguments)
    assert not (tmp_path / "out").exists()


def test_a_missing_model_is_exit_1(data_dir, run_cli, tmp_path):
    arguments = ("--task", "sst2", "--data-dir", data_dir, *QUICK)
    refuse(run_cli, 1, "no-model", tmp_path / "o", "--model", tmp_path / "no-model", *arguments)
    (tmp_path / "empty").mkdir()
    refuse(run_cli, 1, "config.json", tmp_path / "o", "--model", tmp_path / "empty", *arguments)
    assert not (tmp_path / "o").exists()


def test_a_file_in_the_way_of_the_build_folder_is_exit_1(run_cli, tmp_path):
    file = tmp_path / "file"
    file.write_text("mine", encoding="utf-8")
    for out in (file, file / "below"):
        refuse(run_cli, 1, "is not a folder", out, "--model", "demo", "--task", "demo")
    assert file.read_text(encoding="utf-8") == "mine"


def test_a_build_folder_in_use_is_exit_1(checkpoint, data_dir, run_cli, tmp_path):
    arguments = ("--model", checkpoint, "--task", "sst2", "--data-dir", data_dir, *QUICK)
    with hold_folder(tmp_path):
        refuse(run_cli, 1, f"is writing '{tmp_path}': process {os.getpid()}", tmp_path, *arguments)


ON_A_BUILD = [
    ("evaluate",),
    ("bench",),
    ("report",),
    ("triton", "--backend", "onnxruntime", "--repository", "never"),
]


@pytest.mark.parametrize("command", ON_A_BUILD, ids=lambda command: command[0])
@pytest.mark.parametrize("begun", [True, False], ids=["in a stage", "before the first"])
def test_a_build_under_way_is_not_called_stopped(begun, command, built, run_cli, tmp_path):
    folder = BuildFolder(Path(shutil.copytree(built[0], tmp_path / "out")))
    if begun:
        write_manifest(folder, {**read_json(folder.manifest), "unfinished": "evaluate"})
    else:
        folder.manifest.unlink()
        folder.results.unlink()
    with holding(folder.path) as holder:
        ran = run_cli(*command, folder.path)
        assert ran.code == 1
        assert f"is writing '{folder.path}': process {holder.pid}, since" in ran.err
    again = run_cli(*command, folder.path)
    assert "deploy build" in again.err
    assert "is writing" not in again.err


@pytest.mark.parametrize("command", ON_A_BUILD, ids=lambda command: command[0])
def test_a_folder_that_cannot_be_written_names_no_option_of_other_commands(
    command, built, run_cli, tmp_path
):
    out = Path(shutil.copytree(built[0], tmp_path / "out"))
    (out / ".lock").unlink()
    (out / ".lock").mkdir()  # which refuses root too
    ran = run_cli(*command, out)
    assert ran.code == 1
    assert f"error: cannot write '{out}'" in ran.err
    assert "--out" not in ran.err


def test_a_link_that_leads_nowhere_is_told_at_once(run_cli, tmp_path):
    link = tmp_path / "link"
    link.symlink_to("gone")
    for out in (link, link / "below"):
        said = f"'{link}' is a link to 'gone', which is not there"
        refuse(run_cli, 1, said, out, "--model", "demo", "--task", "demo")
    assert link.is_symlink()


def test_command_line_wins_over_file(run_cli, tmp_path):
    file = tmp_path / "build.yaml"
    file.write_text("model: demo\ntask: frob-of-file\nmax_batch: 0\n", encoding="utf-8")
    out = tmp_path / "out"
    refuse(run_cli, 2, "frob-of-file", out, "--config", file)
    refuse(run_cli, 2, "frob-of-option", out, "--config", file, "--task", "frob-of-option")
    refuse(run_cli, 2, "--max-batch is 0", out, "--config", file, "--task", "demo")
    mended = ("--task", "demo", "--max-batch", "1")
    refuse(run_cli, 2, "--limit is 0", out, "--config", file, *mended, "--limit", "0")


@pytest.mark.parametrize(
    "arguments",
    [("frob",), ("build", "--frob"), ("build", "--log-level", "frob"), ("report",)],
)
def test_what_typer_refuses_is_exit_2(arguments, run_cli):
    ran = run_cli(*arguments)
    assert (ran.code, ran.out) == (2, "")
    wrong, remedy = ran.err.splitlines()
    assert wrong.startswith("error: ")
    assert remedy.startswith("try: `deploy ")
    assert remedy.endswith("--help`")


@pytest.mark.parametrize("content", [None, "x{", "{}"])
def test_report_of_what_is_no_build_is_exit_1(content, run_cli, tmp_path):
    if content is not None:
        BuildFolder(tmp_path).results.write_text(content, encoding="utf-8")
    ran = run_cli("report", tmp_path)
    assert (ran.code, ran.out) == (1, "")
    assert [line.partition(" ")[0] for line in ran.err.splitlines()] == ["error:", "try:"]
    assert not (tmp_path / "report.md").exists()


def test_doctor_prints_one_object(run_cli):
    ran = run_cli("doctor", "--json")
    assert (ran.code, ran.err) == (0, "")
    assert json.loads(ran.out)["packages"]["torch"]


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (RuntimeError("first\nsecond"), "unexpected RuntimeError: first second"),
        (OSError(errno.ENOSPC, "No space left on device", "out/x"), "free disk space"),
    ],
)
def test_an_unforeseen_failure_is_exit_1_without_a_traceback(failure, said, run_cli, monkeypatch):
    def fail(*_, **__):
        raise failure

    monkeypatch.setattr("deploy.cli.app.app", fail)
    ran = run_cli("doctor")
    assert (ran.code, ran.out) == (1, "")
    assert [line.partition(" ")[0] for line in ran.err.splitlines()] == ["error:", "try:"]
    assert said in ran.err


def as_by_default() -> None:
    """A test runner may itself have been started with signals ignored, which is inherited."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


SIGNALS = [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]


@pytest.mark.skipif(os.name == "nt", reason="needs a named pipe")
@pytest.mark.parametrize(("number", "code", "word"), SIGNALS)
def test_a_signal_ends_a_command_in_one_line(number, code, word, tmp_path):
    pipe = tmp_path / "config.yaml"
    os.mkfifo(pipe)
    process = subprocess.Popen(
        [sys.executable, "-m", "deploy.cli.main", "build", "--config", str(pipe)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=as_by_default,
    )
    with pipe.open("w"):  # opens once the command has begun to read
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (code, "", f"{word}\n")


# Native code that neither returns nor looks for signals, as a long step of an export.
DEAF = """
import hashlib, os
import deploy.stages.export
from deploy.cli.main import main
def export(*_):
    open(os.environ["HALF"], "w").close()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
deploy.stages.export.export_onnx = export
main()
"""


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
@pytest.mark.parametrize(("number", "code", "word"), SIGNALS)
def test_a_signal_ends_a_build_that_is_deep_in_native_code(
    number, code, word, checkpoint, data_dir, tmp_path
):
    out = tmp_path / "out"
    half = out / "onnx" / f".model.fp32.onnx.{'0' * 32}"
    process = subprocess.Popen(
        [sys.executable, "-c", DEAF, *build_command(checkpoint, data_dir, out)[3:]],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HALF": str(half)},
        preexec_fn=as_by_default,
    )
    while not half.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(number)
    # Left to itself, the export would take a quarter of an hour.
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert err.splitlines()[-2:] == [
        "stopped in export: run the same command again, and it goes on there",
        word,
    ]
    assert not half.exists()


def test_a_signal_says_how_a_command_on_a_build_goes_on(
    built, checkpoint, data_dir, tmp_path, run_cli, monkeypatch
):
    def terminate(*_):
        os.kill(os.getpid(), signal.SIGTERM)

    out = Path(shutil.copytree(built[0], tmp_path / "out"))
    model = ("--model", checkpoint, "--task", "sst2", "--data-dir", data_dir, *QUICK[2:])
    with monkeypatch.context() as patch:
        patch.setattr("deploy.engine.ort.OrtSession.run", terminate)
        patch.setattr(os, "_exit", sys.exit)  # this process has tests to run
        patch.setattr("deploy.tune.pipeline.export_onnx", terminate)
        stopped = {
            "goes on there": run_cli("evaluate", out, "--limit", "8"),
            "begins anew": run_cli("bench", out),
            "it begins anew": run_cli("tune", *model, "--out", tmp_path / "tune"),
        }
    for said, ran in stopped.items():
        assert ran.code == 143
        *_, how, word = ran.err.splitlines()
        assert "run the same command again" in how
        assert how.endswith(said)
        assert word == "terminated"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert run_cli("evaluate", out, "--limit", "8").code == 0


def test_ctrl_c_says_where_a_build_goes_on(checkpoint, data_dir, tmp_path, run_cli, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("deploy.stages.quantize.check_onnx", interrupt)
        patch.setattr(os, "_exit", sys.exit)  # this process has tests to run
        ran = run_cli(*build_command(checkpoint, data_dir, out)[3:])
    assert ran.code == 130
    assert "stopped in quantize.fp8: run the same command again" in ran.err
    again = run_cli(*build_command(checkpoint, data_dir, out)[3:], "--log-level", "info")
    assert again.code == 0
    assert "export: unchanged, taken over" in again.err
    assert "calibrate: unchanged, taken over" in again.err


@pytest.mark.parametrize("command", ["build", "evaluate", "bench"])
def test_the_help_of_backend_names_all_that_it_takes(command):
    options = typer.main.get_command(app).commands[command].params
    (shown,) = [each.help for each in options if each.name == "backend"]
    names = [backend.value for backend in Backend]
    missing = [value for value in ("auto", *names) if value not in shown]
    assert missing == []
