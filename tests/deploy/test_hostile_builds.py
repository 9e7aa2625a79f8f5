"""Files of a build folder, mutated: every command that reads them says what is wrong, or works."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from checkpoints import save_random_checkpoint
from deploy_hostile import ends_well, mutated, replaced
from hypothesis import example
from mutations import mutate_bytes, mutate_json
from mutations_onnx import mutate_onnx

from calib_data.progress import SilentProgress
from deploy.artifacts import BuildFolder, update_manifest
from deploy.bench.config import bench_config_from_dict
from deploy.bench.pipeline import bench
from deploy.config import config_from_dict
from deploy.engine.opening import open_session
from deploy.engine.plan import load_plan
from deploy.engine.profiles import any_length, bucket_profiles
from deploy.engine.session import Backend, Precision
from deploy.pipeline import build
from deploy.stages.quantize import write_precision
from export.calibration_table import read_table
from export.precision import FloatType
from export.recipe import PRESETS

needs_rtx = pytest.mark.skipif(
    find_spec("tensorrt_rtx") is None,
    reason="needs tensorrt-rtx: pip install tensorrt-rtx-cu13",
)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory) -> Path:
    """A build with a plan and a benchmark."""
    data = tmp_path_factory.mktemp("data")
    for name in ("train", "dev"):
        path = data / "glue" / "SST-2" / f"{name}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = (f"w{i} w{(7 * i) % 50} w{(11 * i) % 90}\t{i % 2}" for i in range(12))
        path.write_text("\n".join(("sentence\tlabel", *rows)) + "\n")
    out = tmp_path_factory.mktemp("build") / "out"
    options = {
        "model": str(save_random_checkpoint(tmp_path_factory.mktemp("model"), layers=1)),
        "task": "sst2",
        "out": str(out),
        "data_dir": str(data),
        "precision": "fp8,fp16",
        "calib_samples": 4,
        "buckets": "32",
    }
    build(config_from_dict(options))
    quick = {"batch": "1", "iterations": 1, "seconds": 0.0, "warmup": 0.0}
    bench(bench_config_from_dict({"out": str(out), **quick}), SilentProgress())
    return out


@pytest.fixture
def out(pristine, tmp_path) -> Path:
    """A copy: commands write into the folder."""
    return Path(shutil.copytree(pristine, tmp_path / "out"))


@pytest.fixture
def command(run_cli, out, pristine):
    """Run a command on the folder, and see that it ends well; what it wrote is put back."""

    def run(*arguments: object) -> None:
        ran = run_cli(*arguments)
        assert ran.code in (0, 1, 2, 3)
        assert "Traceback" not in ran.err
        assert "error: unexpected" not in ran.err
        if ran.code == 1 and not ran.out:
            assert ran.err.startswith(("error: ", "warning: "))
            assert "\ntry: " in ran.err
        if "--json" in arguments and ran.out:
            json.loads(ran.out)
        for name in ("results.json", "examples.json", "manifest.json", "report.html", "report.md"):
            if not (out / name).is_symlink() and not (out / name).is_dir():
                shutil.copyfile(pristine / name, out / name)

    return run


def vouch(out: Path, name: str) -> None:
    """Let the manifest list a file as it is now, or its hash alone would be refused."""
    path = out / name
    if path.is_file() and not path.is_symlink():
        update_manifest(BuildFolder(out), [path])


@mutated(40)
def test_results_that_are_reported(command, out, seed):
    with replaced(out / "results.json", mutate_json, seed):
        vouch(out, "results.json")
        command("report", out)


@mutated(15)
def test_results_that_are_compared(command, out, pristine, seed):
    with replaced(out / "results.json", mutate_json, seed):
        vouch(out, "results.json")
        command("compare", out, pristine, "--json")


@mutated(8)
def test_results_that_are_evaluated(command, out, seed):
    with replaced(out / "results.json", mutate_json, seed):
        vouch(out, "results.json")
        command("evaluate", out, "--limit", "2", "--json")


@mutated(10)
def test_results_that_are_benchmarked(command, out, seed):
    quick = ("--batch", "1", "--iterations", "1", "--seconds", "0", "--warmup", "0")
    with replaced(out / "results.json", mutate_json, seed):
        vouch(out, "results.json")
        command("bench", out, *quick)


@mutated(15)
def test_a_manifest_that_is_reported(command, out, seed):
    with replaced(out / "manifest.json", mutate_json, seed):
        command("report", out, "--json")


@pytest.mark.parametrize("name", ["manifest.json", "examples.json"])
@mutated(6)
def test_files_that_are_evaluated(command, out, name, seed):
    with replaced(out / name, mutate_json, seed):
        command("evaluate", out, "--limit", "2")


@needs_rtx
@mutated(25)
def test_layers_that_are_inspected(command, out, seed):
    path = next(out.glob("engines/model.fp8.*.layers.json"))
    with replaced(path, mutate_json, seed):
        command("inspect", out, "--precision", "fp8", "--all")


@mutated(15)
def test_a_calibration_table(pristine, tmp_path, seed):
    path = tmp_path / "calibration.json"
    shutil.copyfile(pristine / "calibration.json", path)
    fingerprint = json.loads(path.read_text())["source"]["model_fingerprint"]

    def use():
        table = read_table(path, fingerprint)
        fp32 = BuildFolder(pristine).onnx("fp32")
        write_precision(fp32, tmp_path / "x.onnx", PRESETS["fp8"], table, FloatType.FP16)

    with replaced(path, mutate_json, seed):
        ends_well(use)


@needs_rtx
@pytest.mark.parametrize("name", ["manifest.json", "model.plan", "model.plan.json"])
@mutated(8)
def test_a_plan_is_not_loaded(out, name, seed):
    """The hash tells, before anything of it is parsed or deserialised."""
    target = next(out.glob("engines/model.fp8.*.plan")).name.split(".")[2]
    folder = BuildFolder(out)
    path = {
        "manifest.json": folder.manifest,
        "model.plan": folder.plan("fp8", target),
        "model.plan.json": folder.plan_info("fp8", target),
    }[name]
    mutate = mutate_bytes if name == "model.plan" else mutate_json
    with replaced(path, mutate, seed):
        ends_well(lambda: load_plan(folder, Precision.FP8, target))


@needs_rtx
@mutated(20)
def test_a_sidecar_that_the_manifest_vouches_for(out, seed):
    folder = BuildFolder(out)
    path = next(out.glob("engines/model.fp8.*.plan.json"))
    with replaced(path, mutate_json, seed):
        vouch(out, f"engines/{path.name}")
        ends_well(lambda: load_plan(folder, Precision.FP8, path.name.split(".")[2]))


@pytest.mark.parametrize(
    ("precision", "backend"),
    [
        (Precision.FP32, Backend.ONNXRUNTIME),
        (Precision.FP8, Backend.ONNXRUNTIME),
        (Precision.FP8, Backend.TORCH),
    ],
    ids=lambda each: each.value,
)
@mutated(25)
def test_a_model_that_a_session_opens(out, precision, backend, seed):
    folder = BuildFolder(out)
    tokens = np.ones((2, 20), np.int64)

    def use():
        profiles = any_length(bucket_profiles((32,), 32))
        session = open_session(folder, precision, backend, profiles)
        if backend is Backend.ONNXRUNTIME:
            session.run(dict.fromkeys(session.input_names, tokens))

    with replaced(folder.onnx(precision.value), mutate_onnx, seed):
        vouch(out, f"onnx/model.{precision.value}.onnx")
        ends_well(use)


@example(seed=3941680)  # an operator whose name is no text
@mutated(6)
def test_a_model_that_is_checked(command, out, seed):
    path = BuildFolder(out).onnx("fp8")
    with replaced(path, mutate_onnx, seed):
        command("check", path, "--buckets", "32", "--json")
