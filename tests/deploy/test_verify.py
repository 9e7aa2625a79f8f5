"""`deploy verify` as a user calls it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from holders import holding
from small_builds import build_into, write_inputs

from deploy.artifacts import (
    BuildFolder,
    read_json,
    read_manifest,
    sha256,
    update_manifest,
    write_json,
    write_manifest,
)
from deploy.config import config_from_dict
from deploy.engine.builder import Flavour, installed_flavours
from export.recipe import PRESETS, recipe_to_dict

RTX = Flavour.TENSORRT_RTX in installed_flavours()
needs_rtx = pytest.mark.skipif(not RTX, reason="needs tensorrt-rtx: pip install tensorrt-rtx-cu13")


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("verify")
    recipe = {**recipe_to_dict(PRESETS["fp8"]), "name": "mine", "exclude": ["*.layer.0.*"]}
    options = {**write_inputs(root), "precision": "fp8", "max_drop": 0.5}
    options |= {"min": {"accuracy": 0.0}, "recipe": [recipe]}
    build_into(root / "out", options)
    return root / "out"


@pytest.fixture
def folder(built, tmp_path) -> BuildFolder:
    return BuildFolder(Path(shutil.copytree(built, tmp_path / "out")))


def test_a_good_build_is_a_table_and_exit_0(folder, run_cli):
    before = {path: path.stat().st_mtime_ns for path in folder.path.rglob("*")}
    ran = run_cli("verify", folder.path)
    assert (ran.code, ran.err) == (0, "")
    lines = [line.split()[:2] for line in ran.out.splitlines()[2:-2]]
    assert lines == [[name, "good"] for name in read_manifest(folder)["wanted"]]
    assert f"{folder.path} is complete" in ran.out
    assert {path: path.stat().st_mtime_ns for path in folder.path.rglob("*")} == before


def test_json_is_one_object(folder, run_cli):
    ran = run_cli("verify", folder.path, "--json")
    found = json.loads(ran.out)
    assert (ran.code, found["good"], found["damages"], found["command"]) == (0, True, [], None)
    assert sum(stage["files"] for stage in found["stages"]) == len(read_manifest(folder)["files"])


def test_damage_names_file_stage_and_the_command_that_builds_it_again(
    folder, run_cli, asked_of_build
):
    folder.onnx("fp8").write_bytes(folder.onnx("fp8").read_bytes()[:-1])
    folder.report.unlink()
    ran = run_cli("verify", folder.path)
    size = folder.onnx("fp8").stat().st_size
    assert ran.code == 1
    assert f"onnx/model.fp8.onnx: has {size} bytes, not {size + 1} (quantize.fp8)" in ran.out
    assert "report.md: is missing (report)" in ran.out
    states = {line.split()[0]: line.split()[1] for line in ran.out.splitlines()[2:9] if line}
    assert (states["export"], states["quantize.fp8"]) == ("good", "damaged")
    built = config_from_dict({**read_manifest(folder)["config"], "out": folder.path})
    assert asked_of_build(ran.out.splitlines()[-1]) == built


def test_a_build_that_was_stopped_is_unfinished_and_not_good(folder, run_cli):
    manifest = read_manifest(folder)
    del manifest["stages"]["evaluate"]
    listed = [name for stage in manifest["stages"].values() for name in stage["files"]]
    files = {name: manifest["files"][name] for name in listed}
    write_manifest(folder, {**manifest, "unfinished": "quantize.fp8", "files": files})
    found = json.loads(run_cli("verify", folder.path, "--json").out)
    states = {stage["name"]: stage["state"] for stage in found["stages"]}
    assert (states["export"], states["calibrate"]) == ("good", "good")
    # The files of the last are whole, but belong to an earlier build.
    assert {states[name] for name in ("quantize.fp8", "evaluate", "report")} == {"unfinished"}
    assert (found["good"], found["unfinished"]) == (False, "quantize.fp8")
    assert "evaluation/fp8.onnxruntime.journal" in found["unlisted"]
    ran = run_cli("verify", folder.path)
    assert (ran.code, "the build stopped in quantize.fp8" in ran.out) == (1, True)


def test_reports_older_than_their_results_are_told_and_made_again(folder, run_cli):
    """As `deploy report` leaves them that could not replace the second file."""
    folder.report.unlink()
    folder.report.mkdir()
    before = folder.report_html.read_text()
    folder.report_html.write_text("")  # so that the new one differs
    update_manifest(folder, [folder.report_html])
    assert run_cli("report", folder.path).code == 1
    assert folder.report_html.read_text() == before
    folder.report.rmdir()
    folder.report.write_text("older")
    manifest = read_manifest(folder)
    entry = manifest["files"]["report.md"]
    entry |= {"bytes": 5, "sha256": sha256(folder.report)}
    write_manifest(folder, manifest)
    ran = run_cli("verify", folder.path)
    assert ran.code == 1
    assert "report.md: is older than others" in ran.out
    assert "report.html" not in ran.out
    options = {**manifest["config"], "out": folder.path}
    build_into(folder.path, {name: value for name, value in options.items() if value is not None})
    assert run_cli("verify", folder.path).code == 0
    assert folder.report.read_text().startswith("# ")


def test_a_link_out_of_the_folder_is_refused(folder, run_cli, tmp_path):
    elsewhere = Path(shutil.move(folder.report, tmp_path / "elsewhere.md"))
    folder.report.symlink_to(elsewhere)
    refused(run_cli, "does not lie within", folder)


def test_a_calibration_that_is_not_its_own_is_damage_that_only_force_mends(folder, run_cli):
    table = read_json(folder.calibration)
    site = next(iter(table["sites"].values()))
    site["amax"], site["upper"] = 2.0, 1.0
    write_json(folder.calibration, table)
    update_manifest(folder, [folder.calibration])
    ran = run_cli("verify", folder.path)
    assert ran.code == 1
    assert "impossible histogram" in ran.out
    assert ran.out.splitlines()[-1].endswith("--force calibrate")


@needs_rtx
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sha256": "0" * 64}, "describes another plan than 'engines/model.fp8.sm89.plan'"),
        ({"target": "sm120"}, "says fp8, sm120, tensorrt_rtx, unlike the manifest"),
        ({"profiles": None}, "does not describe a plan"),
    ],
)
def test_a_sidecar_that_describes_another_plan_is_damage(changes, said, folder, run_cli):
    sidecar = folder.plan_info("fp8", "sm89")
    write_json(sidecar, {**read_json(sidecar), **changes})
    update_manifest(folder, [sidecar])
    ran = run_cli("verify", folder.path)
    assert ran.code == 1
    assert said.replace("tensorrt_rtx", Flavour.TENSORRT_RTX.value) in ran.out
    assert "(compile.fp8.sm89)" in ran.out
    assert ran.out.splitlines()[-1].endswith("--force compile")


def test_what_no_stage_made_is_named(folder, run_cli):
    shutil.copyfile(folder.onnx("fp8"), folder.onnx("int8"))
    ran = run_cli("verify", folder.path)
    assert (ran.code, "onnx/model.int8.onnx: of no stage" in ran.out) == (0, True)


def refused(run_cli, said, folder):
    ran = run_cli("verify", folder.path)
    assert (ran.code, ran.out) == (1, "")
    assert [line.partition(" ")[0] for line in ran.err.splitlines()] == ["error:", "try:"]
    assert said in ran.err


def test_without_a_manifest_nothing_is_good(folder, run_cli, tmp_path):
    folder.manifest.write_text(folder.manifest.read_text().replace("0", "1", 1), "utf-8")
    refused(run_cli, "is damaged", folder)
    folder.manifest.unlink()
    refused(run_cli, "manifest.json", folder)
    refused(run_cli, "manifest.json", BuildFolder(tmp_path / "nothing"))
    assert not (tmp_path / "nothing").exists()


def test_a_folder_that_is_being_written_is_not_judged(folder, run_cli):
    with holding(folder.path) as holder:
        refused(run_cli, f"process {holder.pid}, since", folder)
    assert run_cli("verify", folder.path).code == 0


def test_a_folder_is_verified_where_it_cannot_be_written(folder, run_cli):
    hashes = {path: sha256(path) for path in folder.path.rglob("*") if path.is_file()}
    for path in (folder.path, *folder.path.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        assert run_cli("verify", folder.path).code == 0
    finally:
        for path in (folder.path, *folder.path.rglob("*")):
            path.chmod(0o755)
    assert {path: sha256(path) for path in folder.path.rglob("*") if path.is_file()} == hashes
