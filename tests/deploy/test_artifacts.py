from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from threading import Timer

import pytest
from faults import Calls
from holders import holding
from manifests import manifest_of

from deploy.artifacts import (
    BuildFolder,
    check_finished,
    check_not_held,
    check_writable,
    file_hashes,
    forget_files,
    hold_folder,
    is_listed,
    left_behind,
    own_files,
    read_holder,
    read_json,
    read_manifest,
    read_results,
    replace_files,
    temporary_files,
    update_manifest,
    write_bytes,
    write_json,
    write_manifest,
    write_text,
)
from deploy.errors import BuildFolderError

# Beyond any pid that Linux gives.
NOBODY = 1 << 23


def write_note(path: Path, pid: int) -> None:
    """What a command writes down while it holds a folder."""
    note = {"pid": pid, "since": "2026-01-02T03:04:05+00:00"}
    (path / ".lock.json").write_text(json.dumps(note), encoding="utf-8")


def fill(folder: BuildFolder) -> list[str]:
    """Write one file of every kind that a build makes; return their names."""
    names = [
        "calibration.json",
        "engines/model.fp8.sm89.plan",
        "onnx/model.fp32.onnx",
        "onnx/model.fp32.onnx.data",
        "report.md",
        "results.json",
        "tokenizer/tokenizer.json",
    ]
    for name in names:
        path = folder.path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"content of {name}", encoding="utf-8")
    return names


def names_in(path: Path) -> list[str]:
    return sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())


@pytest.fixture
def built(tmp_path) -> BuildFolder:
    folder = BuildFolder(tmp_path / "out")
    folder.path.mkdir()
    fill(folder)
    write_manifest(folder, manifest_of(folder))
    return folder


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "disk full"), KeyboardInterrupt()])
def test_a_failing_write_leaves_the_old_file_alone(call, failure, tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    write_text(path, "old")

    def fail(*_):
        raise failure

    # Path.replace goes through os.replace on some versions of Python only.
    monkeypatch.setattr(*((os, "fsync") if call == "fsync" else (Path, "replace")), fail)
    with pytest.raises((BuildFolderError, KeyboardInterrupt)):
        write_text(path, "new")
    assert names_in(tmp_path) == ["results.json"]
    assert path.read_text(encoding="utf-8") == "old"


def test_a_full_disk_is_explained(tmp_path, monkeypatch):
    def fail(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(BuildFolderError, match="No space left") as caught:
        write_bytes(tmp_path / "x", b"1")
    assert "disk space" in caught.value.remedy


def test_json_refuses_what_json_cannot_say(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "results.json", {"accuracy": float("nan")})
    assert names_in(tmp_path) == []


def test_a_second_writer_is_told_who_the_first_is_and_since_when(tmp_path):
    with holding(tmp_path) as holder:
        with pytest.raises(BuildFolderError) as caught, hold_folder(tmp_path):
            pass
        since = read_holder(tmp_path).since
        assert f"process {holder.pid}, since {since}" in caught.value.message
        assert datetime.now(timezone.utc) - datetime.fromisoformat(since) < timedelta(minutes=1)
        holder.communicate()  # it ends
    with hold_folder(tmp_path):
        assert read_holder(tmp_path).pid == os.getpid()
    assert read_holder(tmp_path) is None


def test_a_killed_writer_holds_nothing(tmp_path):
    with holding(tmp_path) as holder:
        holder.kill()
        holder.wait()
        assert read_holder(tmp_path) is None  # though its note is still there
        with hold_folder(tmp_path):
            assert read_holder(tmp_path).pid == os.getpid()


@pytest.mark.parametrize("lock", [True, False])
def test_a_note_whose_pid_another_process_has_now_holds_nothing(tmp_path, lock):
    """Of a writer that was killed, in a container whose pids begin anew."""
    write_note(tmp_path, pid=1)
    if lock:
        (tmp_path / ".lock").touch()
    check_not_held(tmp_path)
    assert read_holder(tmp_path) is None
    assert (tmp_path / ".lock").exists() == lock


def test_a_writer_in_another_container_holds_the_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("deploy.artifacts.lock._PATIENCE_S", 0.1)
    with holding(tmp_path):
        write_note(tmp_path, pid=NOBODY)
        with pytest.raises(BuildFolderError, match=f"process {NOBODY}, since 2026"):
            check_not_held(tmp_path)
        (tmp_path / ".lock.json").unlink()
        with pytest.raises(BuildFolderError, match="another command is writing"):
            check_not_held(tmp_path)
    check_not_held(tmp_path)


def test_who_asks_whether_a_folder_is_held_stops_no_writer(tmp_path):
    fcntl = pytest.importorskip("fcntl", reason="needs POSIX locks")
    with hold_folder(tmp_path):
        pass
    asking = os.open(tmp_path / ".lock", os.O_RDONLY)
    fcntl.flock(asking, fcntl.LOCK_SH)
    Timer(0.02, os.close, [asking]).start()
    with hold_folder(tmp_path):
        pass


def test_lock_is_released_by_a_failing_build(tmp_path):
    with pytest.raises(RuntimeError), hold_folder(tmp_path):
        raise RuntimeError
    with hold_folder(tmp_path):
        pass


@pytest.mark.parametrize("below", ["file", "file/below"])
def test_a_file_in_the_way_is_refused(below, tmp_path):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    with pytest.raises(BuildFolderError, match="is not a folder"):
        check_writable(tmp_path / below)
    with pytest.raises(BuildFolderError), hold_folder(tmp_path / below):
        pass
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


def test_looking_whether_a_folder_can_be_written_makes_nothing(tmp_path):
    check_writable(tmp_path / "a" / "b")
    check_writable(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc, where root cannot write")
def test_a_folder_that_refuses_files_is_found_early():
    with pytest.raises(BuildFolderError, match="cannot write '/proc/out'"):
        check_writable(Path("/proc/out"))


def test_hashes_are_those_of_the_builds_own_files(tmp_path):
    folder = BuildFolder(tmp_path)
    names = fill(folder)
    (tmp_path / "notes.txt").write_text("a user's", encoding="utf-8")
    (tmp_path / "onnx" / "theirs.onnx").write_text("a user's", encoding="utf-8")
    write_text(folder.manifest, "{}")
    hashes = file_hashes(folder)
    assert sorted(hashes) == names
    for name in names:
        content = (tmp_path / name).read_bytes()
        assert hashes[name] == {
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }


def test_own_files_are_not_reached_through_links_out_of_the_folder(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "model.fp8.onnx").write_text("keep", encoding="utf-8")
    (elsewhere / f".model.fp8.onnx.{'0' * 32}").write_text("keep", encoding="utf-8")
    folder = BuildFolder(tmp_path / "out")
    folder.path.mkdir()
    (folder.path / "onnx").symlink_to(elsewhere)
    assert own_files(folder) == temporary_files(folder) == []


def test_temporary_files_are_known_by_their_names(built):
    half = built.path / "onnx" / f".model.fp8.onnx.{'0' * 32}"
    write_text(half, "half")
    write_text(built.path / "onnx" / ".model.fp8.onnx.bak", "a user's")
    write_text(built.path / "onnx" / f".theirs.onnx.{'0' * 32}", "a user's")
    write_text(built.path / f".{'0' * 32}", "a user's")
    assert temporary_files(built) == [half]


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "link/x"])
def test_a_manifest_cannot_name_what_lies_elsewhere(name, built):
    (built.path / "link").symlink_to("/etc")
    content = manifest_of(built)
    content["files"][name] = {"bytes": 1, "sha256": "0" * 64}
    content["stages"]["report"]["files"].append(name)
    write_manifest(built, content)
    with pytest.raises(BuildFolderError, match="does not lie within"):
        read_manifest(built)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"stages": {}}, "report is missing, and nothing"),
        ({"unfinished": "export"}, "export is unfinished, and no stage"),
        ({"wanted": ["export"]}, "report is no stage"),
        ({"files": {}}, "'calibration.json' is not one file of one stage"),
        ({"files": {"x": {"bytes": 1, "sha256": ""}}}, "'x' is not one file of one stage"),
        ({"files": {"x": {"bytes": "1", "sha256": ""}}}, "files.x.bytes is '1', not a count"),
        ({"config": {"model": "m", "task": "t"}}, "config has no 'precision'"),
        ({"stages": {"report": {}}}, "stages.report has no 'key'"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(changes, said, built):
    write_manifest(built, {**manifest_of(built), **changes})
    with pytest.raises(BuildFolderError) as caught:
        read_manifest(built)
    assert said in caught.value.message


def test_a_manifest_is_believed_only_as_it_was_written(built):
    text = built.manifest.read_text(encoding="utf-8")
    for position in range(0, len(text), 7):
        changed = chr(ord(text[position]) ^ 1)
        if json_says_the_same(text, text[:position] + changed + text[position + 1 :]):
            continue
        built.manifest.write_text(text[:position] + changed + text[position + 1 :], "utf-8")
        with pytest.raises(BuildFolderError):
            read_manifest(built)


def json_says_the_same(one: str, other: str) -> bool:
    try:
        return json.loads(one) == json.loads(other)
    except ValueError:
        return False


@pytest.mark.parametrize("content", ["[1, 2]", "{", "null", '"x"', "{}", '{"schema_version": 2}'])
def test_what_is_no_manifest_is_refused(content, built):
    built.manifest.write_text(content, encoding="utf-8")
    with pytest.raises(BuildFolderError) as caught:
        read_manifest(built)
    assert "build it again" in caught.value.remedy


def test_files_that_are_written_again_enter_the_manifest(built):
    write_text(built.results, "others")
    forget_files(built, ["results.json"])
    assert "results.json" not in read_manifest(built)["files"]
    assert read_manifest(built)["stages"]["report"]["files"] == sorted(
        file_hashes(built).keys() - {"results.json"}
    )
    update_manifest(built, [built.results])
    assert read_manifest(built) == {**read_manifest(built), **manifest_of(built)}


def test_replaced_files_are_whole_and_listed_whenever_that_ends(built):
    """As a full disk ends it, and as SIGKILL does, which cleans nothing up."""
    old = {path: path.read_text() for path in (built.results, built.report)}
    new = {path: f"new {text}" for path, text in old.items()} | {built.examples: "examples"}
    same = built.path / "calibration.json"
    new = {same: same.read_text()} | new
    ended = 0
    for kill in (False, True):
        for number in itertools.count():
            with ended_at_call(built, number, kill=kill) as calls:
                replace_files(built, new)
            if len(calls.moments) <= number:
                break
            ended += 1
            manifest = read_manifest(built)
            found = {path: path.read_text() for path in old}
            for path, text in found.items():
                assert text in (old[path], new[path])
                assert is_listed(path, manifest["files"][built.name(path)])
            is_old = {built.name(path) for path in old if found[path] == old[path]}
            assert left_behind(built, manifest) == (is_old if len(is_old) == 1 else set())
            replace_files(built, new)
            assert read_manifest(built)["files"] == file_hashes(built)
            built.examples.unlink()
            for path, text in old.items():
                path.write_text(text)
            write_manifest(built, manifest_of(built))
    # Of four files and two manifests, each is opened, written, synced and renamed at least.
    assert ended >= 2 * 6 * 4


@contextmanager
def ended_at_call(folder, number, *, kill) -> Iterator[Calls]:
    """End whatever writes into a folder at a call."""

    def at(count, moment):
        if count == number:
            raise Killed if kill else OSError(errno.ENOSPC, "disk full")
        if count > number and kill:
            raise Killed  # a dead process makes no call

    calls = Calls(folder.path, at)
    with suppress(Killed, BuildFolderError), calls.watched():
        yield calls


class Killed(BaseException):
    """SIGKILL, for all that the process can still do about it."""


def test_an_unfinished_build_is_named_as_such(built):
    write_manifest(
        built,
        {**manifest_of(built), "wanted": ["report", "quantize.fp8"], "unfinished": "quantize.fp8"},
    )
    with pytest.raises(BuildFolderError, match=r"stopped in quantize\.fp8") as caught:
        check_finished(built)
    assert "again" in caught.value.remedy


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot read"),
        ("x{", "is not JSON"),
        ('{"a": 1}', "schema version None"),
        ('{"schema_version": 99}', "schema version 99"),
        ("[]", "schema version None"),
    ],
)
def test_results_that_cannot_be_read_are_refused(content, said, tmp_path):
    folder = BuildFolder(tmp_path)
    if content is not None:
        folder.results.write_text(content, encoding="utf-8")
    with pytest.raises(BuildFolderError) as caught:
        read_results(folder)
    assert said in caught.value.message
    assert "deploy build" in caught.value.remedy or "build it again" in caught.value.remedy


def test_json_survives_the_round_trip(tmp_path):
    content = {"name": "äé`|", "value": [1, 2.5, None, True]}
    write_json(tmp_path / "x.json", content)
    assert read_json(tmp_path / "x.json") == content
