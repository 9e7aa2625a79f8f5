"""Standard output has results alone, whatever libraries print and log."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import warnings

import pytest

from deploy.cli.output import LogLevel, error_console, only_results_on_stdout, set_up_logging


def test_what_libraries_print_does_not_reach_standard_output(capfd):
    with only_results_on_stdout():
        print("from Python")
        os.write(1, b"from native code\n")
        subprocess.run([sys.executable, "-c", "print('from a child')"], check=True)
    print("result")
    captured = capfd.readouterr()
    assert captured.out == "result\n"
    for line in ("from Python", "from native code", "from a child"):
        assert line in captured.err


def test_standard_output_is_given_back_after_an_error(capfd):
    with pytest.raises(RuntimeError), only_results_on_stdout():
        raise RuntimeError
    os.write(1, b"result\n")
    assert capfd.readouterr().out == "result\n"


@pytest.mark.parametrize("level", [LogLevel.WARNING, LogLevel.ERROR])
def test_libraries_are_quiet_and_this_project_is_not(level, run_cli, capfd):
    set_up_logging(level, error_console())
    logging.getLogger("some_library").warning("noise")
    warnings.warn("noise", stacklevel=1)
    logging.getLogger("deploy.pipeline").warning("100 %% [bold] of %s", "it")
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ("warning: 100 % [bold] of it\n" if level is LogLevel.WARNING else "")
