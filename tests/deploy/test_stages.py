"""What a second build of a folder does, and what it leaves alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from checkpoints import save_random_checkpoint
from small_builds import build_into, contents, write_inputs

import deploy.engine.ort
import deploy.stages.compile
from calib_data.errors import UsageError
from calib_data.progress import SilentProgress
from deploy.artifacts import (
    BuildFolder,
    file_hashes,
    forget_files,
    json_text,
    own_files,
    read_json,
    read_manifest,
    replace_files,
    write_json,
)
from deploy.bench.config import bench_config_from_dict
from deploy.bench.pipeline import bench
from deploy.engine.builder import Flavour, installed_flavours
from deploy.errors import BuildFolderError, EngineError
from deploy.pipeline import build
from deploy.stages.planned import planned_files
from deploy.verification import verify_folder
from export.recipe import PRESETS, recipe_to_dict

RTX = Flavour.TENSORRT_RTX in installed_flavours()
PLANS = ("compile.fp8.sm89", "compile.fp16.sm89") if RTX else ()
ALL = ("export", "calibrate", "quantize.fp8", "quantize.fp16", *PLANS, "evaluate", "report")


needs_rtx = pytest.mark.skipif(not RTX, reason="needs tensorrt-rtx: pip install tensorrt-rtx-cu13")


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> dict[str, Any]:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def built(options, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("built") / "out"
    build_into(out, options)
    return out


@pytest.fixture
def folder(built, tmp_path) -> BuildFolder:
    return BuildFolder(Path(shutil.copytree(built, tmp_path / "out")))


def ran(folder: BuildFolder) -> list[str]:
    """The stages that the last build of a folder ran."""
    stages = read_manifest(folder)["stages"]
    return [name for name in read_manifest(folder)["wanted"] if not stages[name]["reused"]]


def test_a_first_build_runs_every_stage(built):
    assert ran(BuildFolder(built)) == list(ALL)
    stages = read_manifest(BuildFolder(built))["stages"].values()
    assert all(stage["peak_memory_bytes"] is None or stage["seconds"] >= 0 for stage in stages)


def test_a_second_build_makes_nothing(built, options, tmp_path):
    # In place, since the manifest says where it was built.
    before = file_hashes(BuildFolder(built))
    build_into(built, options)
    assert ran(BuildFolder(built)) == []
    assert file_hashes(BuildFolder(built)) == before


RANGES = ("calibrate", "quantize.fp8", "quantize.fp16")
LINEARS = {**recipe_to_dict(PRESETS["fp8"]), "name": "linears", "exclude": ["*.attention.*"]}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"max_drop": 0.5}, ["report"]),
        ({"limit": 5}, ["evaluate", "report"]),
        ({"buckets": "32,64"}, [*PLANS, "evaluate", "report"]),
        ({"recipe": [LINEARS]}, ["quantize.fp8", *PLANS[:1], "evaluate", "report"]),
        # FP16 comes out the same from other ranges, so nothing after it runs.
        ({"calib_samples": 3}, [*RANGES, *PLANS[:1], "evaluate", "report"]),
        ({"precision": "fp8"}, ["evaluate", "report"]),
        ({"precision": "fp8,fp16,int8"}, ["quantize.int8", *(
            ["compile.int8.sm89"] if RTX else []), "evaluate", "report"]),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else None,
)  # fmt: skip
def test_a_changed_option_runs_only_what_depends_on_it(
    changes, expected, folder, options, tmp_path
):
    build_into(folder.path, {**options, **changes})
    assert ran(folder) == expected
    fresh = BuildFolder(tmp_path / "fresh")
    build_into(fresh.path, {**options, **changes})
    assert contents(folder) == contents(fresh)


@needs_rtx
def test_another_tensorrt_compiles_again(folder, options, monkeypatch):
    """However it was installed: a container has it from no distribution that pip knows."""
    import tensorrt_rtx

    monkeypatch.setattr(tensorrt_rtx, "__version__", "1.99.0.1")
    build_into(folder.path, options)
    assert ran(folder) == [*PLANS, "report"]


def test_another_checkpoint_runs_everything(folder, options, tmp_path):
    other = {**options, "model": str(save_random_checkpoint(tmp_path / "model", seed=1))}
    build_into(folder.path, other)
    assert ran(folder) == list(ALL)


# Some have names that a build gives to its own.
THEIRS = (
    "notes.txt",
    "onnx/theirs.onnx",
    "onnx/model.mine.onnx",
    "engines/model.trial.plan",
    "tokenizer/NOTES.md",
    "evaluation/my.journal",
)


@pytest.mark.parametrize("changes", [{}, {"precision": "fp8"}, {"calib_samples": 3}], ids=str)
def test_a_users_files_stay_whatever_their_names(changes, folder, options):
    for name in THEIRS:
        (folder.path / name).write_text(name, encoding="utf-8")
    build_into(folder.path, {**options, **changes})
    for name in THEIRS:
        assert (folder.path / name).read_text(encoding="utf-8") == name
    assert read_manifest(folder)["removable"] == []


def test_precisions_that_are_no_longer_wanted_are_removed(folder, options):
    build_into(folder.path, {**options, "precision": "fp8"})
    left = {folder.name(path) for path in own_files(folder)}
    assert not [name for name in left if "fp16" in name]
    assert {"onnx/model.fp8.onnx", "onnx/model.fp32.onnx"} <= left


def test_what_a_stopped_evaluation_has_left_is_removed(folder, options):
    """`deploy evaluate` tells the manifest before it writes a journal of a backend that is new."""
    forget_files(folder, ["evaluation/fp8.torch.journal"])
    journal = folder.path / "evaluation/fp8.torch.journal"
    journal.write_bytes(b"half")
    build_into(folder.path, options)
    assert not journal.exists()


def test_every_file_is_planned_before_it_is_written(built, options):
    """So that a stage that is killed leaves nothing that passes for a user's."""
    from deploy.config import config_from_dict
    from deploy.inputs import load_inputs

    config, folder = config_from_dict({**options, "out": built}), BuildFolder(built)
    planned = planned_files(config, folder, load_inputs(config, SilentProgress()))
    stages = read_manifest(folder)["stages"]
    assert list(planned) == list(stages) == list(ALL)
    for name, stage in stages.items():
        assert set(stage["files"]) <= planned[name]


@pytest.mark.parametrize(
    "theirs", [("results.json", "report.md"), ("tokenizer/tokenizer.json",), ("manifest.json",)]
)
def test_a_first_build_writes_over_nothing_of_a_users(theirs, options, tmp_path):
    for name in theirs:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("[]", encoding="utf-8")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BuildFolderError) as caught:
        build_into(tmp_path, options)
    assert caught.value.message.endswith(f"has written: {', '.join(sorted(theirs))}")
    assert sorted(tmp_path.rglob("*")) == before
    assert all((tmp_path / name).read_text(encoding="utf-8") == "[]" for name in theirs)


def test_a_later_build_writes_over_nothing_of_a_users_either(folder, options):
    theirs = folder.onnx("int8")
    theirs.write_text("mine", encoding="utf-8")
    before = read_json(folder.manifest)
    with pytest.raises(BuildFolderError, match=r"has written: onnx/model\.int8\.onnx"):
        build_into(folder.path, {**options, "precision": "fp8,int8"})
    assert theirs.read_text(encoding="utf-8") == "mine"
    assert read_json(folder.manifest) == before


@pytest.mark.parametrize("name", ["results.json", "onnx/model.fp32.onnx"])
def test_a_folder_of_the_name_of_a_file_is_told_at_once(name, options, tmp_path):
    (tmp_path / name).mkdir(parents=True)
    with pytest.raises(BuildFolderError, match="is a folder, where a build writes a file"):
        build_into(tmp_path, options)
    assert {path.name for path in tmp_path.iterdir()} == {name.split("/")[0]}


def test_no_build_writes_into_its_checkpoint(options, tmp_path):
    model = Path(shutil.copytree(options["model"], tmp_path / "model"))
    before = sorted(model.rglob("*"))
    with pytest.raises(UsageError, match="is the checkpoint"):
        build_into(model, {**options, "model": str(model)})
    assert sorted(model.rglob("*")) == before
    # `deploy build --model . --out out` is no accident.
    plain = {**options, "model": str(model), "engine": "none", "precision": "fp16"}
    build_into(model / "out", plain)
    assert [path for path in sorted(model.rglob("*")) if "out" not in path.parts] == before
    build_into(model / "out", plain)
    assert ran(BuildFolder(model / "out")) == []


@pytest.mark.parametrize("kind", ["quantize", "evaluate"])
def test_force_runs_one_kind_of_stage_and_what_it_makes_is_the_same(
    kind, folder, options, monkeypatch
):
    from deploy.config import config_from_dict, parse_force

    before, batches = contents(folder), []
    ran_rows = deploy.engine.ort.OrtSession.run
    monkeypatch.setattr(
        "deploy.engine.ort.OrtSession.run", lambda *given: batches.append(1) or ran_rows(*given)
    )
    build(config_from_dict({**options, "out": folder.path}), force=parse_force(kind))
    assert bool(batches) == (kind == "evaluate")  # which takes no answer over either
    forced = [name for name in ALL if name.partition(".")[0] == kind]
    assert ran(folder) == [*forced, "report"]  # which says where the folder lies
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("name", "stage", "damage"),
    [
        ("onnx/model.fp32.onnx", "export", "truncated"),
        ("tokenizer/tokenizer.json", "export", "flipped"),
        ("calibration.json", "calibrate", "removed"),
        ("onnx/model.fp8.onnx", "quantize.fp8", "flipped"),
        pytest.param(
            *("engines/model.fp8.sm89.plan", "compile.fp8.sm89", "truncated"),
            marks=pytest.mark.skipif(not RTX, reason="needs tensorrt-rtx"),
        ),
        ("evaluation/fp8.onnxruntime.journal", "evaluate", "flipped"),
        ("results.json", "report", "removed"),
    ],
)
def test_a_damaged_file_is_found_and_made_again(name, stage, damage, folder, options):
    before, path = contents(folder), folder.path / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "removed":
        path.unlink()
    else:
        path.write_bytes(content if damage == "flipped" else content[:-1])
    found = verify_folder(folder)
    assert [(each.file, each.stage) for each in found.damages] == [(name, stage)]
    build_into(folder.path, options)
    # The report says where the folder lies, which here is another place than it was built in.
    assert ran(folder) == list(dict.fromkeys([stage, "report"]))
    assert contents(folder) == before
    assert verify_folder(folder).good


def test_a_damaged_manifest_makes_everything_again(folder, options):
    before = contents(folder)
    manifest = read_json(folder.manifest)
    manifest["files"]["onnx/model.fp8.onnx"]["sha256"] = "0" * 64
    write_json(folder.manifest, manifest)
    build_into(folder.path, options)
    assert ran(folder) == list(ALL)
    assert contents(folder) == before


def test_what_was_measured_stays_as_long_as_its_model(folder, options):
    """`deploy bench` measures for hours what a build cannot measure again."""
    quick = {"batch": "1", "iterations": 1, "seconds": 0.0, "warmup": 0.0}
    bench(bench_config_from_dict({"out": folder.path, **quick}))
    before = read_json(folder.results)
    measured = before["latency"]
    entries = [{"precision": "fp16", "backend": "onnxruntime", "p50_ms": 1, "fastest": True}]
    place = {"sweep": "onnxruntime", "batch": 1, "sequence": 32, "clock": "host"}
    before["crossover"] = [{**place, "entries": [{**each, "speedups": []} for each in entries]}]
    replace_files(folder, {folder.results: json_text(before)})
    assert {row["precision"] for row in measured} == {"fp32", "fp16", "fp8"}
    build_into(folder.path, {**options, "recipe": [LINEARS]})
    results = read_json(folder.results)
    assert results["latency"] == [row for row in measured if row["precision"] != "fp8"]
    assert results["crossover"] == []  # which compared all of them


def test_a_baseline_stays_as_long_as_its_checkpoint(folder, options, tmp_path):
    """Also in a precision that was not built: it is of the checkpoint, not of the build."""
    quick = {"batch": "1", "iterations": 1, "seconds": 0.0, "warmup": 0.0}
    bench(bench_config_from_dict({"out": folder.path, **quick}))
    results = read_json(folder.results)
    baseline = {**results["latency"][0], "precision": "int8", "backend": "torch-compile"}
    results["latency"].append(baseline)
    entry = {"precision": "int8", "backend": "torch-compile", "p50_ms": 1, "fastest": True}
    place = {"sweep": baseline["sweep"], "batch": 1, "sequence": 32, "clock": "host"}
    results["crossover"] = [{**place, "entries": [{**entry, "speedups": []}]}]
    replace_files(folder, {folder.results: json_text(results)})
    build_into(folder.path, {**options, "max_drop": 0.5})
    after = read_json(folder.results)
    assert after["latency"] == results["latency"]
    assert after["crossover"] == results["crossover"]
    other = save_random_checkpoint(tmp_path / "other", seed=1)
    build_into(folder.path, {**options, "model": str(other)})
    assert read_json(folder.results)["latency"] == []


def test_limits_of_an_evaluation_are_not_those_of_the_build(folder, options, run_cli):
    """Neither a stricter nor a looser one decides whether a build may ship."""
    strict = run_cli("evaluate", folder.path, "--min", "accuracy=1")
    assert strict.code == 3
    results = read_json(folder.results)
    assert results["limits"] == {"max_drop": None, "min": {"accuracy": 1.0}, "min_agreement": None}
    build_into(folder.path, options)
    assert ran(folder) == ["report"]
    after = read_json(folder.results)
    assert after["gates"] == []
    assert after["runs"] == results["runs"]
    build_into(folder.path, options)
    assert ran(folder) == []


def test_runs_judged_by_other_metrics_are_not_kept(options, tmp_path, run_cli):
    rows = Path(options["data_dir"]) / "glue" / "SST-2" / "dev.tsv"
    shutil.copyfile(rows, tmp_path / "dev.tsv")
    task = tmp_path / "task.yaml"
    fields = "name: mine\ntrain: dev.tsv\ndev: dev.tsv\ntext: sentence\nlabels: ['0', '1']\n"
    task.write_text(fields, encoding="utf-8")
    out = BuildFolder(tmp_path / "out")
    plain = {**options, "task": str(task), "data_dir": None, "precision": "fp16", "limit": 6}
    build_into(out.path, plain)
    assert run_cli("evaluate", out.path).code == 0
    assert len(read_json(out.results)["runs"]) == 4
    task.write_text(f"{fields}metrics: [matthews, accuracy]\n", encoding="utf-8")
    build_into(out.path, plain)
    runs = read_json(out.results)["runs"]
    assert [list(run["metrics"]) for run in runs] == [["matthews", "accuracy"]] * 2


@needs_rtx
@pytest.mark.parametrize("unknown", [None, "report_build", "fusion_by_profile"])
def test_fusion_is_required_for_every_target(unknown, folder, options, monkeypatch):
    """One whose layers cannot be read may be the one that did not fuse."""
    if unknown is not None:
        known = getattr(deploy.stages.compile, unknown)

        def unreadable(*arguments):
            if "sm120" in arguments:
                raise EngineError("listed in another way", "compare `deploy doctor`")
            return known(*arguments)

        monkeypatch.setattr(deploy.stages.compile, unknown, unreadable)
    build_into(folder.path, {**options, "target": "sm89,sm120", "require_fusion": True})
    results = read_json(folder.results)
    (gate,) = (gate for gate in results["gates"] if gate["name"] == "fusion.fp8")
    assert gate["passed"] == (unknown is None)
    assert (gate["value"] is None) == ("fp8" not in results["fusion"]) == (unknown is not None)
