"""No token in what a command prints, logs or keeps."""

from __future__ import annotations

import json
import logging

from deploy.artifacts import write_json, write_text
from deploy.cli.output import LogLevel, error_console, print_json, set_up_logging

TOKEN = "hf_AbCdEfGhIjKlMnOpQrStUvWxYzAbCdEfGh"
ADDRESS = f"https://me:{TOKEN}@host/model"


def test_errors(run_cli):
    ran = run_cli("build", "--model", ADDRESS, "--task", "demo", "--out", "never")
    assert ran.code == 1
    assert "https://***@host/model" in ran.err
    assert TOKEN not in ran.err


def test_an_error_nobody_expected(run_cli, monkeypatch):
    def fail(*_: object) -> None:
        raise RuntimeError(f"\x1b[31m401 for {ADDRESS}\n" + "x" * 100_000)

    monkeypatch.setattr("deploy.config.config_from_dict", fail)
    ran = run_cli("build", "--model", "demo", "--task", "demo", "--out", "never")
    assert TOKEN not in ran.err
    assert "\x1b" not in ran.err
    assert len(ran.err) < 4000


def test_logs_and_their_tracebacks(run_cli, capfd):
    set_up_logging(LogLevel.DEBUG, error_console())
    try:
        raise ValueError(ADDRESS)
    except ValueError:
        logging.getLogger("deploy").exception("asking %s", ADDRESS)
    logged = capfd.readouterr().err
    assert "Traceback" in logged
    assert TOKEN not in logged


def test_files(tmp_path):
    write_json(tmp_path / "manifest.json", {"config": {"model": ADDRESS}})
    write_text(tmp_path / "report.md", f"--model {ADDRESS}\n")
    assert json.loads((tmp_path / "manifest.json").read_text()) == {
        "config": {"model": "https://***@host/model"}
    }
    assert TOKEN not in (tmp_path / "report.md").read_text()


def test_a_folder_whose_name_begins_as_a_token_does_is_written_down(tmp_path):
    """A manifest that had lost it would send every later command to a folder that is not there."""
    config = {"model": "hf_checkpoint12345678", "task": "hf_taskfiles/task.yaml"}
    write_json(tmp_path / "manifest.json", {"config": config})
    assert json.loads((tmp_path / "manifest.json").read_text()) == {"config": config}


def test_json_on_standard_output(capsys):
    print_json({"model": ADDRESS})
    assert json.loads(capsys.readouterr().out) == {"model": "https://***@host/model"}
