"""The whole chain, as a user runs it."""

from pathlib import Path

import onnx
import pytest
import yaml

from deploy.artifacts import read_json, sha256
from deploy.config import config_from_dict
from deploy.engine.builder import Flavour, installed_flavours
from deploy.pipeline import build
from export.errors import RecipeError
from export.recipe import PRESETS, recipe_to_dict

SHARED = Path(__file__).parents[1] / "../shared"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared")
RTX = Flavour.TENSORRT_RTX in installed_flavours()


@pytest.fixture(scope="session")
def demo_build(demo_model, tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    options = {"model": "demo", "task": "demo", "out": out, "precision": "fp8,int8,fp16"}
    return out, build(config_from_dict({**options, "max_drop": 0.5, "calib_samples": 64}))


def test_demo_leaves_everything_a_user_ships(demo_build):
    out, results = demo_build
    assert read_json(out / "results.json") == results
    assert (out / "report.md").read_text().startswith("# `demo` on demo")
    for precision in ("fp32", "fp16", "int8", "fp8"):
        onnx.checker.check_model(out / "onnx" / f"model.{precision}.onnx")
    assert {path.name for path in (out / "tokenizer").iterdir()} >= {"tokenizer.json"}
    manifest = read_json(out / "manifest.json")
    assert manifest["stages"]["export"]["result"]["relative_error"] <= 1e-5
    for name, entry in manifest["files"].items():
        assert sha256(out / name) == entry["sha256"]
    assert {"onnx/model.fp8.onnx", "calibration.json", "results.json"} <= set(manifest["files"])


def test_demo_keeps_its_accuracy(demo_build):
    _, results = demo_build
    fp32 = results["accuracy"]["fp32"]["metrics"]["accuracy"]
    assert 0.90 <= fp32 <= 0.99
    assert [run["precision"] for run in results["runs"]] == ["fp32", "fp8", "int8", "fp16"]
    for precision in ("fp8", "int8", "fp16"):
        low, _high = results["compare"][precision]["accuracy"]["ci95"]
        # Ten of 1,000 rows, or what chance explains.
        assert results["compare"][precision]["accuracy"]["drop"] <= 0.01 or low <= 0.0
    assert {run["simulated"] for run in results["runs"]} == {True, False}
    assert not results["runs"][0]["simulated"]


@pytest.mark.skipif(not RTX, reason="needs tensorrt-rtx")
def test_demo_engines_are_fused(demo_build):
    out, results = demo_build
    for precision in ("fp8", "int8"):
        fusion = results["fusion"][precision]
        assert fusion["quantized_gemms"] == fusion["expected_gemms"] == 4 * 6
        assert fusion["fused_attention"] == fusion["expected_attention"] == 4
        assert [each["max"]["sequence"] for each in fusion["profiles"]] == [32, 64]
    for engine in results["engines"]:
        assert (out / engine["file"]).stat().st_size == engine["bytes"]


@pytest.mark.skipif(not RTX, reason="needs tensorrt-rtx")
def test_layers_lie_beside_every_plan_one_a_line(demo_build):
    out, results = demo_build
    for engine in results["engines"]:
        layers = Path(out / engine["file"]).with_suffix(".layers.json")
        assert f"engines/{layers.name}" in read_json(out / "manifest.json")["files"]
        lines = layers.read_text(encoding="utf-8").splitlines()
        listed = sum(line.lstrip().startswith('{"name"') for line in lines)
        fusion = results["fusion"][engine["precision"]]
        assert listed == sum(profile["layers"] for profile in fusion["profiles"])
        assert fusion["unfused"] == []
        assert all(profile["unfused"] == [] for profile in fusion["profiles"])


def test_gates_stand_in_the_results(demo_build):
    _, results = demo_build
    assert [gate["name"] for gate in results["gates"]] == [
        f"max_drop.{precision}.accuracy" for precision in ("fp8", "int8", "fp16")
    ]
    assert all(gate["passed"] for gate in results["gates"])


def test_late_mistakes_are_found_before_the_good_build_is_touched(demo_build):
    out, results = demo_build
    recipe = out / "recipe.yaml"
    plain = {**recipe_to_dict(PRESETS["fp8"]), "exclude": ["bert.encoder.layer.99.*"]}
    recipe.write_text(yaml.safe_dump(plain))
    options = {"model": "demo", "task": "demo", "out": out, "recipe": str(recipe)}
    with pytest.raises(RecipeError, match="matches no site"):
        build(config_from_dict(options))
    recipe.unlink()
    assert read_json(out / "results.json") == results


def test_second_build_takes_the_calibration_over(demo_build, monkeypatch):
    """Same model, same rows: the table is byte-identical, and the model is not run again."""
    out, _ = demo_build
    before = (out / "calibration.json").read_bytes()
    monkeypatch.setattr("deploy.stages.calibrate.calibrate", None)
    options = {"model": "demo", "task": "demo", "out": out, "calib_samples": 64, "limit": 20}
    build(config_from_dict({**options, "engine": "none"}))
    assert (out / "calibration.json").read_bytes() == before


@needs_shared
@pytest.mark.shared
def test_real_checkpoint_on_real_data(tmp_path):
    """SST-2: FP32 exactly as when the model was made; FP8 and INT8 within their bounds."""
    config = config_from_dict(
        {
            "model": SHARED / "checkpoints/minilm-sst2",
            "task": "sst2",
            "data_dir": SHARED / "data",
            "precision": "fp8,int8",
            "engine": "none",
            "out": tmp_path / "out",
        }
    )
    results = build(config)
    fp32 = results["accuracy"]["fp32"]
    assert (fp32["n"], round(fp32["metrics"]["accuracy"] * fp32["n"])) == (872, 778)
    for precision, points in (("fp8", 0.005), ("int8", 0.015)):
        drop = results["compare"][precision]["accuracy"]
        assert drop["drop"] <= points or drop["ci95"][0] <= 0.0 <= drop["ci95"][1]
