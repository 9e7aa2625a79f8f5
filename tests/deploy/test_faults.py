"""A build that dies or cannot write, anywhere, leaves nothing that passes for good."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from build_server import BuildServer
from faults import Moment
from small_builds import contents, write_inputs

from deploy.artifacts import BuildFolder, read_manifest, sha256
from deploy.errors import BuildFolderError
from deploy.verification import StageState, verify_folder

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

FAILURES = (errno.ENOSPC, errno.EIO, errno.EACCES)
FAILING = ("open", "write", "fsync", "rename")


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> dict[str, Any]:
    return {**write_inputs(tmp_path_factory.mktemp("inputs")), "precision": "fp8"}


@pytest.fixture(scope="module")
def server(options, tmp_path_factory) -> Iterator[BuildServer]:
    with BuildServer(options, tmp_path_factory.mktemp("server") / "scratch") as started:
        yield started


@pytest.fixture(scope="module")
def calm(server, tmp_path_factory) -> tuple[list[Moment], dict[str, Any]]:
    """The calls of a build that nothing disturbs, and what it makes."""
    out = tmp_path_factory.mktemp("calm") / "out"
    (done,) = server.run({"out": str(out)})
    assert (done["error"], done["killed"]) == (None, False)
    assert verify_folder(BuildFolder(out)).good
    return done["moments"], contents(BuildFolder(out))


def drawn(moments: Sequence[Moment], count: int, seed: int) -> list[int]:
    """Numbers of calls, of each stage as many as of any other, as far as it has them."""
    generator = random.Random(seed)
    by_stage: dict[str, list[int]] = {}
    for number, moment in enumerate(moments):
        by_stage.setdefault(moment.stage, []).append(number)
    for numbers in by_stage.values():
        generator.shuffle(numbers)
    rounds = [
        numbers[turn]
        for turn in range(count)
        for numbers in by_stage.values()
        if turn < len(numbers)
    ]
    return rounds[:count]


def check_nothing_damaged_is_good(folder: BuildFolder, undisturbed: dict[str, Any]) -> None:
    """Hold what `deploy verify` calls good against the undisturbed build."""
    try:
        found, manifest = verify_folder(folder), read_manifest(folder)
    except BuildFolderError:
        assert not folder.manifest.exists()  # it is whole once it is there
        return
    assert found.damages == ()  # whatever the manifest vouches for had been synced
    for stage in found.stages:
        if stage.state is StageState.GOOD:
            for name in manifest["stages"][stage.name]["files"]:
                made = undisturbed[name]
                assert not isinstance(made, str) or sha256(folder.path / name) == made
    if found.good:
        assert contents(folder) == undisturbed
    else:
        assert found.unfinished is not None


def kill_and_build_again(server, calm, out: Path, number: int) -> None:
    moments, undisturbed = calm
    (died,) = server.run({"out": str(out), "stop_at": number})
    assert died["killed"]
    assert died["moments"] == moments[: number + 1]
    check_nothing_damaged_is_good(BuildFolder(out), undisturbed)
    (done,) = server.run({"out": str(out)})
    assert done["error"] is None
    assert verify_folder(BuildFolder(out)).good
    assert contents(BuildFolder(out)) == undisturbed
    assert hidden_files(out) == {".lock"}


def hidden_files(out: Path) -> set[str]:
    return {path.name for path in out.rglob(".*")}


@pytest.mark.parametrize(
    "count", [8, pytest.param(30, marks=pytest.mark.slow)], ids=["some", "thirty"]
)
def test_killed_at_any_call_it_ends_as_if_undisturbed(count, server, calm, tmp_path):
    """SIGKILL, and half of what no sync had put on disk is gone, as in a power cut."""
    numbers = drawn(calm[0], count, seed=count)
    hit = [calm[0][number].stage for number in numbers]
    # start, every stage, and what comes after the last
    assert set(hit) == {moment.stage for moment in calm[0]}
    for number in numbers:
        kill_and_build_again(server, calm, tmp_path / str(number), number)


def test_killed_in_every_stage_in_turn_it_still_ends(server, calm, tmp_path):
    """Each attempt goes on where the one before it died, and dies a stage later."""
    moments, undisturbed = calm
    generator = random.Random(0)
    for stage in dict.fromkeys(moment.stage for moment in moments):
        call = generator.randrange(sum(moment.stage == stage for moment in moments))
        (died,) = server.run({"out": str(tmp_path), "stop_in": [stage, call]})
        assert died["killed"]
        check_nothing_damaged_is_good(BuildFolder(tmp_path), undisturbed)
    (done,) = server.run({"out": str(tmp_path)})
    assert done["error"] is None
    assert contents(BuildFolder(tmp_path)) == undisturbed


def failing(moments: Sequence[Moment]) -> list[int]:
    """Calls that can fail; of many writes to one file in a row, the first two and the last."""
    numbers = [number for number, moment in enumerate(moments) if moment.kind in FAILING]
    return [
        number
        for number in numbers
        if moments[number].kind != "write"
        or not moments[number] == moments[number - 2] == moments[number + 1]
    ]


def fail_and_build_again(server, calm, out: Path, number: int, code: int) -> bool:
    """Whether the failing call stopped the build."""
    moments, undisturbed = calm
    (failed,) = server.run({"out": str(out), "fail_at": [number, code]})
    assert failed["moments"][: number + 1] == moments[: number + 1]
    if failed["error"] is not None:
        assert not failed["error"].startswith("unexpected")
        assert os.strerror(code) in failed["error"]
    check_nothing_damaged_is_good(BuildFolder(out), undisturbed)
    assert hidden_files(out) <= {".lock", ".lock.json"}
    (done,) = server.run({"out": str(out)})
    assert done["error"] is None
    assert verify_folder(BuildFolder(out)).good
    assert contents(BuildFolder(out)) == undisturbed
    assert hidden_files(out) == {".lock"}
    return failed["error"] is not None


def test_a_call_that_fails_is_explained_and_harms_nothing(server, calm, tmp_path):
    numbers = failing(calm[0])
    for turn, index in enumerate(drawn([calm[0][number] for number in numbers], 9, seed=1)):
        code = FAILURES[turn % len(FAILURES)]
        fail_and_build_again(server, calm, tmp_path / str(turn), numbers[index], code)


@pytest.mark.slow
@pytest.mark.parametrize("code", FAILURES, ids=[errno.errorcode[code] for code in FAILURES])
def test_every_call_that_fails_is_explained_and_harms_nothing(code, server, calm, tmp_path):
    stopped = [
        fail_and_build_again(server, calm, tmp_path / str(number), number, code)
        for number in failing(calm[0])
    ]
    print(f"{len(stopped)} calls failed, {sum(stopped)} of them stopped the build")
    assert sum(stopped) > len(stopped) / 2


@pytest.mark.parametrize(
    "count", [3, pytest.param(20, marks=pytest.mark.slow)], ids=["some", "twenty"]
)
def test_of_two_builds_into_one_folder_one_waits_or_is_refused(count, server, tmp_path):
    choices = {name: {"precision": name, "engine": "none"} for name in ("fp8", "fp16")}
    made = {}
    for name, chosen in choices.items():
        server.run({"out": str(tmp_path / name), "options": chosen})
        made[name] = contents(BuildFolder(tmp_path / name))
    generator = random.Random(count)
    refused = 0
    for turn in range(count):
        folder = BuildFolder(tmp_path / str(turn))
        found = server.run(
            *(
                {"out": str(folder.path), "options": chosen, "delay": generator.uniform(0, 0.3)}
                for chosen in choices.values()
            )
        )
        for one, other in (found, found[::-1]):
            if one["error"] is not None:
                refused += 1
                assert other["error"] is None
                assert f"another command is writing '{folder.path}'" in one["error"]
                assert f"process {other['pid']}, since 20" in one["error"]
        assert verify_folder(folder).good
        (precision,) = read_manifest(folder)["config"]["precision"]
        assert contents(folder) == made[precision]
    assert refused > 0
