"""What stands in README and documentation as a command is one, and works where it says so.

Marks are explained in CONTRIBUTING.md.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from command_lines import RejectedError, dry_run, split_script
from page_runs import RUN, run_page
from pages import PAGES, ROOT, blocks, name

COMMANDS = {"bash", "python"}
SHOWN = {"text", "yaml", "json", "ini", "mermaid"}
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


def test_most_that_needs_no_gpu_is_run():
    pages = ("concepts", "evaluation", "layers", "own-data", "own-model", "python-api", "serving")
    assert {"README.md", *(f"docs/{page}.md" for page in pages)} <= set(map(name, RUNNABLE))
