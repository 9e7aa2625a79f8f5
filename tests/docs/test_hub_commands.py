"""What README does with a model and data of the Hugging Face hub, done with a hub of the tests."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from command_lines import split_script
from hub import Hub, Repository
from hub_contents import sst2_repositories
from page_runs import page_environment, run
from pages import PAGES, blocks

# One block says all there is about the hub; another one would want a fixture of its own.
(BLOCK,) = [block for page in PAGES for block in blocks(page) if block.mark == "needs: the hub"]
(COMMAND,) = split_script(BLOCK.text)
OPTIONS = dict(pairwise(COMMAND))
MODEL, OUT = OPTIONS["--model"], OPTIONS["--out"]
DATA = "nyu-mll/glue"

TOKEN = "hf_AbCdEfGhIjKlMnOpQrStUvWxYzAbCdEfGh"


class Reader:
    """Somebody who has read README, with an empty folder, and no model or data of the hub yet.

    Attributes:
        home: Where all lies that is theirs.
        folder: Where they stand.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.folder = home / "project"
        self.folder.mkdir()
        theirs = {name: str(home / name) for name in ("HF_HOME", "XDG_CACHE_HOME")}
        # Settings of whoever runs the tests would decide what is asked of which hub.
        around = page_environment(home).items()
        self._environment = {k: v for k, v in around if not k.startswith("HF_")} | theirs

    def runs_it(self, hub: Hub, token: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run the command.

        Args:
            hub: Which hub is asked.
            token: What `hf auth login` would have left behind.
        """
        of_hub = {**hub.proxies, "HF_ENDPOINT": hub.endpoint}
        logged_in = {"HF_TOKEN": token} if token else {}
        return run("bash", [BLOCK], self.folder, {**self._environment, **of_hub, **logged_in})


@pytest.fixture(scope="module")
def repositories(tmp_path_factory) -> tuple[Repository, Repository]:
    return sst2_repositories(MODEL, DATA, tmp_path_factory.mktemp("repositories"))


@dataclass(frozen=True)
class Story:
    """The command, three times: at first, again, and once more when the hub is gone."""

    reader: Reader
    hub: Hub
    first: subprocess.CompletedProcess[str]
    again: subprocess.CompletedProcess[str]
    offline: subprocess.CompletedProcess[str]

    @property
    def results(self) -> Mapping[str, Any]:
        return json.loads((self.reader.folder / OUT / "results.json").read_bytes())


@pytest.fixture(scope="module")
def story(repositories, tmp_path_factory) -> Story:
    reader = Reader(tmp_path_factory.mktemp("reader"))
    with Hub(repositories) as hub:
        first, again = (reader.runs_it(hub, TOKEN) for _ in range(2))
    return Story(reader, hub, first, again, reader.runs_it(hub, TOKEN))


def test_the_command_builds_what_it_says(story):
    assert story.first.returncode == 0, story.first.stderr
    assert story.results["model"] == MODEL
    assert story.results["task"] == "sst2"
    # The model is right about every sentence, if it and they came whole, with their labels.
    accuracy = {name: run["metrics"]["accuracy"] for name, run in story.results["accuracy"].items()}
    assert accuracy.pop("fp32") == 1.0
    assert accuracy.keys() == {"fp16", "int8", "fp8"}
    assert min(accuracy.values()) >= 0.99
    assert {gate["name"].split(".")[0] for gate in story.results["gates"]} == {"max_drop", "fusion"}


def test_only_what_is_needed_is_downloaded_and_only_once(story):
    asked = [each for each in story.hub.requests if "/resolve/" in each or "/lfs/" in each]
    of_the_model = {each.rpartition("/")[2] for each in asked if MODEL in each}
    weights = {"config.json", "model.safetensors"}
    assert of_the_model == weights | {"tokenizer_config.json", "vocab.txt"}
    assert max(Counter(each for each in asked if each.startswith("GET")).values()) == 1


def test_nobody_else_is_told_of_it(story):
    # `datasets` counts downloads at Amazon.
    elsewhere = [asked for asked in story.hub.requests if asked.startswith("CONNECT")]
    assert {asked.split()[1] for asked in elsewhere} <= {"s3.amazonaws.com:443"}


def test_nothing_of_the_reader_stays_in_the_build(story):
    assert story.hub.tokens == {TOKEN}
    said = [story.first.stdout, story.first.stderr, story.again.stdout, story.again.stderr]
    written = [path for path in (story.reader.folder / OUT).rglob("*") if path.is_file()]
    for content in (*map(str.encode, said), *(path.read_bytes() for path in written)):
        assert TOKEN.encode() not in content
        assert str(story.reader.home).encode() not in content
        assert story.hub.endpoint.encode() not in content


def test_the_same_command_again_does_nothing(story):
    assert story.again.returncode == 0
    assert "nothing had to be done" in story.again.stdout


def test_without_the_hub_the_cache_is_enough(story):
    assert story.offline.returncode == 0, story.offline.stderr
    assert "nothing had to be done" in story.offline.stdout
    assert story.offline.stderr == story.again.stderr


def failure(done: subprocess.CompletedProcess[str]) -> tuple[str, str]:
    """What was wrong, and what to do about it: all that is said."""
    assert done.returncode == 1
    assert done.stdout == ""
    wrong, remedy = done.stderr.splitlines()
    assert wrong.startswith("error: ")
    assert remedy.startswith("try: ")
    return wrong, remedy


@pytest.mark.parametrize("token", [None, TOKEN], ids=["stranger", "not invited"])
def test_a_model_that_is_missing_or_private(repositories, tmp_path, token):
    model, data = repositories
    private = Repository(model.kind, model.id, model.files, token="somebody else's")
    with Hub([private, data]) as hub:
        wrong, remedy = failure(Reader(tmp_path).runs_it(hub, token))
    assert MODEL in wrong
    assert "--model" in remedy
    assert "hf auth login" in remedy


def test_data_that_are_missing(repositories, tmp_path):
    with Hub(repositories[:1]) as hub:
        wrong, remedy = failure(Reader(tmp_path).runs_it(hub))
    assert DATA in wrong
    assert "--data-dir" in remedy


def test_no_hub_and_an_empty_cache(tmp_path):
    with Hub() as hub:
        pass
    wrong, remedy = failure(Reader(tmp_path).runs_it(hub))
    assert DATA in wrong
    assert "--data-dir" in remedy
