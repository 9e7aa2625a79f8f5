from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import pytest
from checkpoints import save_random_checkpoint

from calib_data.errors import UsageError
from deploy.cli.output import LogLevel, error_console, set_up_logging, working
from deploy.engine.trt_logger import make_logger
from deploy.logs import build_log, log_crash, log_of, log_to

# ISO 8601 with milliseconds and offset, level, logger, message.
LINE = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d (debug|info|warning|error) [\w.]+: ."
)
STAGES = ("export", "calibrate", "quantize.fp8", "evaluate", "report")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> tuple[object, ...]:
    """Options that name a small model and a few examples."""
    folder = tmp_path_factory.mktemp("source")
    model = save_random_checkpoint(folder)
    for split, rows in (("train", 6), ("dev", 4)):
        path = folder / "data" / "glue" / "SST-2" / f"{split}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = ["sentence\tlabel", *(f"w{i} w{3 * i}\t{i % 2}" for i in range(rows))]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return (
        *("build", "--model", model, "--task", "sst2", "--data-dir", folder / "data"),
        *("--engine", "none", "--calib-samples", "4", "--buckets", "32"),
    )


def test_quiet_silences_standard_error_and_no_file(source, tmp_path, run_cli):
    log, out = tmp_path / "deploy.log", tmp_path / "out"
    ran = run_cli(*source, "--out", out, "--quiet", "--json", "--log-file", log)
    assert (ran.code, ran.err) == (0, "")
    assert json.loads(ran.out)["schema_version"] == 1
    lines = log.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not LINE.match(line)] == []
    for stage in STAGES:
        assert len(
            [
                line
                for line in lines
                if re.search(rf" info .*: {re.escape(stage)}: \d+\.\d s$", line)
            ]
        )
    # The folder's own log begins when the folder is opened, so it lacks what came before.
    (kept,) = (out / "logs").iterdir()
    inside = [line.partition(" ")[2] for line in kept.read_text(encoding="utf-8").splitlines()]
    outside = [line.partition(" ")[2] for line in lines]
    assert any("export: " in line for line in inside)
    assert set(inside) < set(outside)


def test_into_a_pipe_every_line_has_its_time_from_info_down(source, tmp_path, run_cli):
    ran = run_cli(
        *(*source, "--precision", "fp32", "--out", tmp_path / "out"), "--log-level", "info"
    )
    assert ran.code == 0
    lines = ran.err.splitlines()
    assert len(lines) >= 3
    stamped = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d (info|warning): .")
    assert [line for line in lines if not stamped.match(line)] == []


def test_a_user_s_mistake_ends_the_log_with_its_remedy(source, tmp_path, run_cli):
    log = tmp_path / "deploy.log"
    ran = run_cli(
        *(*source, "--out", tmp_path / "out", "--recipe", "fp8", "--precision", "fp8"),
        *("--data-dir", tmp_path / "nothing", "--log-file", log),
    )
    assert ran.code == 1
    error, remedy = ran.err.splitlines()
    last = log.read_text(encoding="utf-8").splitlines()[-1]
    assert error.removeprefix("error: ") in last
    assert remedy.removeprefix("try: ") in last
    assert "Traceback" not in log.read_text(encoding="utf-8")


@pytest.mark.parametrize("named", [True, False])
def test_a_crash_names_the_log_that_has_its_traceback(
    named, source, tmp_path, run_cli, monkeypatch
):
    def crash(*_, **__):
        raise RuntimeError("https://user:hunter22@host/ said no")

    monkeypatch.setattr("deploy.stages.export.export_onnx", crash)
    log, out = tmp_path / "deploy.log", tmp_path / "out"
    ran = run_cli(*source, "--out", out, *(("--log-file", log) if named else ()))
    assert (ran.code, ran.out) == (1, "")
    assert "Traceback" not in ran.err
    (kept,) = (out / "logs").iterdir()
    assert f"'{log if named else kept}'" in ran.err.splitlines()[-1]
    for path in (kept, *((log,) if named else ())):
        text = path.read_text(encoding="utf-8")
        assert "in crash" in text
        assert "RuntimeError: https://***@host/ said no" in text


def test_a_crash_where_no_log_is_open_is_written_as_well(run_cli, monkeypatch, tmp_path):
    def crash(*_, **__):
        raise RuntimeError("no")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("deploy.doctor.facts.gather_facts", crash)
    ran = run_cli("doctor")
    assert ran.code == 1
    (log,) = tmp_path.iterdir()
    assert f"'{log}'" in ran.err
    assert "in crash" in log.read_text(encoding="utf-8")
    assert "Traceback" not in ran.err


def test_a_log_that_cannot_be_written_is_wrong_usage(source, tmp_path, run_cli):
    ran = run_cli(*source, "--out", tmp_path / "out", "--log-file", tmp_path / "no" / "log")
    assert ran.code == 2
    assert "--log-file" in ran.err
    assert not (tmp_path / "out").exists()


def test_the_last_five_builds_are_kept_and_nothing_else_is_removed(tmp_path):
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "00-notes.log").write_text("the user's", encoding="utf-8")
    old = [f"2025010{day}T000000.000Z.log" for day in range(1, 8)]
    for name in old:
        (logs / name).touch()
    with build_log(tmp_path):
        logging.getLogger("deploy.pipeline").debug("here")
    names = sorted(path.name for path in logs.iterdir())
    assert names[:5] == ["00-notes.log", *old[-4:]]
    assert len(names) == 6
    assert "deploy.pipeline: here\n" in (logs / names[-1]).read_text(encoding="utf-8")


def test_a_build_goes_on_where_no_log_can_be_written(tmp_path, run_cli, capfd):
    set_up_logging(LogLevel.WARNING, error_console())
    (tmp_path / "logs").write_text("a file", encoding="utf-8")
    with build_log(tmp_path):
        logging.getLogger("deploy.pipeline").warning("goes on")
    first, second = capfd.readouterr().err.splitlines()
    assert first.startswith("warning: no log of this build: ")
    assert second == "warning: goes on"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_under_the_log_stops_nothing(run_cli, capfd):
    with log_to(Path("/dev/full")):
        logging.getLogger("deploy.pipeline").debug("lost")
    assert capfd.readouterr().err == ""


def test_what_is_shown_is_not_changed_by_a_file(tmp_path, run_cli, capfd):
    log = logging.getLogger("export.qdq")
    with working(quiet=False, log_level=LogLevel.WARNING, log_file=str(tmp_path / "log")):
        log.info("for the file")
        log.warning("for both")
    assert capfd.readouterr().err == "warning: for both\n"
    text = (tmp_path / "log").read_text(encoding="utf-8")
    assert "info export.qdq: for the file\n" in text
    assert "warning export.qdq: for both\n" in text


def test_a_program_that_calls_build_gets_the_records_it_asked_for(tmp_path, run_cli, monkeypatch):
    """Without the command line the packages have no handlers, and pass on to the root's."""
    seen = []

    class Seen(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record.getMessage())

    deploy = logging.getLogger("deploy")
    monkeypatch.setattr(deploy, "handlers", [])
    monkeypatch.setattr(deploy, "propagate", True)
    monkeypatch.setattr(logging.root, "handlers", [Seen()])
    deploy.setLevel(logging.INFO)
    with log_to(tmp_path / "outer"), log_to(tmp_path / "inner"):
        deploy.debug("for the files")
        deploy.info("for all")
    deploy.info("after")
    assert seen == ["for all", "after"]
    for name in ("outer", "inner"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert text.count("for the files") == text.count("for all") == 1
        assert "after" not in text


def test_an_interrupt_is_noted_and_passed_on(tmp_path):
    with pytest.raises(KeyboardInterrupt), log_to(tmp_path / "log"):
        raise KeyboardInterrupt
    assert "interrupted" in (tmp_path / "log").read_text(encoding="utf-8")


def test_an_error_knows_no_log_unless_one_has_it(tmp_path):
    with pytest.raises(UsageError) as known, log_to(tmp_path / "log"):
        raise UsageError("what", "how")
    assert log_of(known.value) is None
    crash = ValueError("unforeseen")
    path = log_crash(crash)
    assert path is not None
    path.unlink()
    assert log_of(crash) == path


def test_tensorrt_s_warnings_are_in_the_log_and_its_listing_is_not(tmp_path):
    trt = pytest.importorskip("tensorrt_rtx")
    logger = make_logger(trt, keep_messages=True)
    with log_to(tmp_path / "log"):
        logger.log(trt.ILogger.WARNING, "a kernel was skipped")
        logger.log(trt.ILogger.INFO, "built in 3 s")
        logger.log(trt.ILogger.VERBOSE, "one of a hundred thousand")
    text = (tmp_path / "log").read_text(encoding="utf-8")
    assert "warning deploy.engine.trt_logger: a kernel was skipped\n" in text
    assert "debug deploy.engine.trt_logger: built in 3 s\n" in text
    assert "hundred thousand" not in text
    assert logger.messages[-1] == "one of a hundred thousand"
