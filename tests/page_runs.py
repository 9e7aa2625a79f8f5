"""Blocks of README and documentation, run as a reader would."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import groupby
from pathlib import Path

from pages import ROOT, Block, blocks, name

RUN = "run"


def run_page(page: Path, folder: Path) -> None:
    """Run a page's blocks in their order; all of it has to succeed."""
    environment = page_environment(folder)
    runnable = [block for block in blocks(page) if block.mark == RUN]
    for language, together in groupby(runnable, key=lambda block: block.language):
        done = run(language, list(together), folder, environment)
        assert done.returncode == 0, f"{name(page)}: {done.stderr[-2000:]}"
        assert "Traceback" not in done.stderr


def page_environment(folder: Path) -> dict[str, str]:
    """Environment in which `deploy` and `python` are this project's; they are put into `folder`."""
    tools = folder / "tools"
    tools.mkdir()
    # The project as it lies here, which need not be the one that is installed.
    (tools / "deploy").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m deploy.cli.main "$@"\n')
    (tools / "deploy").chmod(0o755)
    (tools / "python").symlink_to(sys.executable)
    return {
        **os.environ,
        "PATH": f"{tools}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }


def run(
    language: str, together: list[Block], folder: Path, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run blocks of a language as one script: the second knows what the first has defined."""
    interpreter = ["bash", "-euo", "pipefail"] if language == "bash" else [sys.executable, "-"]
    return subprocess.run(
        interpreter,
        input="\n".join(block.text for block in together),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
