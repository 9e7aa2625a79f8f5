from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.artifacts import (
    BuildFolder,
    check_writable,
    clear_previous,
    file_hashes,
    open_build_folder,
    read_json,
    read_results,
    write_bytes,
    write_json,
    write_text,
)
from deploy.errors import BuildFolderError


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
    write_json(folder.manifest, {"files": file_hashes(folder)})
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


def test_second_build_is_refused_until_the_first_ends(tmp_path):
    attempt = (
        "import sys; from pathlib import Path; from deploy.artifacts import open_build_folder\n"
        "with open_build_folder(Path(sys.argv[1])): print('opened')"
    )
    command = [sys.executable, "-c", attempt, str(tmp_path)]
    with open_build_folder(tmp_path):
        second = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert second.returncode != 0
    assert "another build is writing" in second.stderr
    third = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert third.stdout == "opened\n"


def test_lock_is_released_by_a_failing_build(tmp_path):
    with pytest.raises(RuntimeError), open_build_folder(tmp_path):
        raise RuntimeError
    with open_build_folder(tmp_path) as folder:
        assert folder.path == tmp_path


@pytest.mark.parametrize("below", ["file", "file/below"])
def test_a_file_in_the_way_is_refused(below, tmp_path):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    with pytest.raises(BuildFolderError, match="is not a folder"):
        check_writable(tmp_path / below)
    with pytest.raises(BuildFolderError), open_build_folder(tmp_path / below):
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


def test_clearing_removes_an_earlier_build_and_nothing_else(built):
    (built.path / "notes.txt").write_text("a user's", encoding="utf-8")
    (built.path / "onnx" / "theirs.onnx").write_text("a user's", encoding="utf-8")
    clear_previous(built)
    assert names_in(built.path) == [".unfinished", "notes.txt", "onnx/theirs.onnx"]


def test_clearing_touches_no_folder_that_was_never_built_into(tmp_path):
    folder = BuildFolder(tmp_path)
    names = fill(folder)
    clear_previous(folder)
    assert names_in(tmp_path) == [".unfinished", *names]


@pytest.mark.parametrize("kind", ["relative", "absolute", "folder", "not names", "not JSON"])
def test_a_manifest_cannot_lead_the_clearing_astray(kind, built, tmp_path):
    victim = tmp_path / "victim.txt"
    victim.write_text("keep", encoding="utf-8")
    keep = built.path / "keep" / "model.onnx"
    write_text_in_folder(keep)
    content = {
        "relative": {"files": {"../victim.txt": {}, "onnx/model.x/../../../victim.txt": {}}},
        "absolute": {"files": {str(victim): {}}},
        "folder": {"files": {"keep": {}, ".": {}, "..": {}, "keep/model.onnx": {}}},
        "not names": [1, 2],
    }.get(kind)
    built.manifest.write_text("{" if content is None else json.dumps(content), encoding="utf-8")
    clear_previous(built)
    assert victim.read_text(encoding="utf-8") == "keep"
    assert names_in(built.path) == [".unfinished", "keep/model.onnx"]


def test_clearing_does_not_follow_links_out_of_the_folder(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "model.fp8.onnx").write_text("keep", encoding="utf-8")
    folder = BuildFolder(tmp_path / "out")
    folder.path.mkdir()
    (folder.path / "onnx").symlink_to(elsewhere)
    write_json(folder.manifest, {"files": {"onnx/model.fp8.onnx": {}}})
    clear_previous(folder)
    assert names_in(elsewhere) == ["model.fp8.onnx"]


def test_what_a_killed_build_left_is_not_taken_for_the_next_ones(tmp_path):
    with open_build_folder(tmp_path) as folder:  # never gets as far as its manifest
        clear_previous(folder)
        folder.onnx("int8").write_text("of the killed build", encoding="utf-8")
        (tmp_path / "onnx" / f".model.fp8.onnx.{'0' * 32}").write_text("half", encoding="utf-8")
    with open_build_folder(tmp_path) as folder:
        clear_previous(folder)
        folder.onnx("fp8").write_text("of this build", encoding="utf-8")
        assert sorted(file_hashes(folder)) == ["onnx/model.fp8.onnx"]
        write_json(folder.manifest, {})
    assert names_in(tmp_path / "onnx") == ["model.fp8.onnx"]
    assert not folder.unfinished.exists()


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


def write_text_in_folder(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("keep", encoding="utf-8")
