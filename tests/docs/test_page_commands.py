"""What stands in README and documentation as a command is one, and works where it says so.

Marks are explained in CONTRIBUTING.md.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import pytest
from command_lines import RejectedError, dry_run, split_script
from pages import PAGES, ROOT, Block, blocks, name

COMMANDS = {"bash", "python"}
SHOWN = {"text", "yaml", "json", "ini", "mermaid"}
RUN = "run"
RUNNABLE = [page for page in PAGES if any(block.mark == RUN for block in blocks(page))]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_says_what_it_is_and_how_it_is_tested(page):
    for block in blocks(page):
        where = f"{name(page)}:{block.line}"
        assert block.language in COMMANDS | SHOWN, f"{where}: name the language after the fence"
        marked = block.mark == RUN or (block.mark or "").startswith("needs: ")
        assert marked == (block.language in COMMANDS), (
            f"{where}: commands have <!-- run --> or <!-- needs: … --> above them, others neither"
        )


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_parsers_accept_every_command(page):
    for block in blocks(page):
        if block.language == "python":
            compile(block.text, f"{name(page)}:{block.line}", "exec")
        if block.language != "bash":
            continue
        for command in split_script(block.text):
            try:
                dry_run(command)
            except RejectedError as error:
                pytest.fail(f"{name(page)}:{block.line}: {error}")


@pytest.fixture(scope="module")
def demo(demo_model, tmp_path_factory) -> Path:
    """The build in out/demo that every page starts from: what docs/python-api.md makes."""
    folder = tmp_path_factory.mktemp("pages")
    run_page(ROOT / "docs/python-api.md", folder)
    return folder / "out/demo"


@pytest.mark.parametrize("page", RUNNABLE, ids=name)
def test_what_is_marked_runnable_runs(page, demo, tmp_path):
    if name(page) == "docs/python-api.md":
        assert (demo / "report.html").is_file()
        return
    shutil.copytree(demo, tmp_path / "out/demo")
    run_page(page, tmp_path)


def run_page(page: Path, folder: Path) -> None:
    """Run a page's blocks in their order; all of it has to succeed."""
    tools = folder / "tools"
    tools.mkdir()
    # The project as it lies here, which need not be the one that is installed.
    (tools / "deploy").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m deploy.cli.main "$@"\n')
    (tools / "deploy").chmod(0o755)
    (tools / "python").symlink_to(sys.executable)
    environment = {
        **os.environ,
        "PATH": f"{tools}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    runnable = [block for block in blocks(page) if block.mark == RUN]
    for language, together in groupby(runnable, key=lambda block: block.language):
        done = run(language, list(together), folder, environment)
        assert done.returncode == 0, f"{name(page)}: {done.stderr[-2000:]}"
        assert "Traceback" not in done.stderr


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


def test_most_that_needs_no_gpu_is_run():
    pages = ("concepts", "evaluation", "layers", "own-data", "own-model", "python-api", "serving")
    assert {"README.md", *(f"docs/{page}.md" for page in pages)} <= set(map(name, RUNNABLE))
