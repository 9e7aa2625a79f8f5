"""docs/commands.md is what the command line says today."""

from __future__ import annotations

import os
import subprocess
import sys

from pages import ROOT


def test_the_page_is_what_the_command_line_generates():
    done = subprocess.run(
        [sys.executable, ROOT / "docs/generate.py", "--check"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
