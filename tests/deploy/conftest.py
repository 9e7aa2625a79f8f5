from __future__ import annotations

import logging
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from deploy.cli.main import main
from deploy.config import BuildConfig


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


@pytest.fixture
def run_cli(monkeypatch, capfd) -> Iterator[Callable[..., Ran]]:
    """Run the command in this process, and undo what it does to logging and environment."""
    for variable in (
        "TRANSFORMERS_VERBOSITY",
        "HF_HUB_VERBOSITY",
        "DATASETS_VERBOSITY",
        "HF_HUB_DISABLE_PROGRESS_BARS",
        "HF_DATASETS_DISABLE_PROGRESS_BARS",
    ):
        monkeypatch.setenv(variable, "1" if "BARS" in variable else "error")
    loggers = [logging.getLogger(name) for name in ("", "calib_data", "export", "deploy")]
    before = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]

    def run(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["deploy", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capfd.readouterr()
        return Ran(int(ended.value.code or 0), captured.out, captured.err)

    with warnings.catch_warnings():
        yield run
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.fixture
def asked_of_build(run_cli, monkeypatch) -> Callable[[str], BuildConfig]:
    """What a printed `deploy build` asks for, as a shell and the command itself understand it."""
    asked: list[BuildConfig] = []

    class NothingBuiltError(Exception):
        pass

    def build(config: BuildConfig, *_: Any) -> None:
        asked.append(config)
        raise NothingBuiltError

    monkeypatch.setattr("deploy.pipeline.build", build)

    def ask(command: str) -> BuildConfig:
        program, *arguments = shlex.split(command.replace("\\\n", " "))
        assert program == "deploy"
        before = len(asked)
        ran = run_cli(*arguments, "--quiet")
        assert len(asked) == before + 1, ran.err
        return asked[-1]

    return ask
