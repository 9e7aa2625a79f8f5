from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from calib_data.errors import ToolchainError, UnknownTaskError, UsageError
from deploy.config import (
    BuildConfig,
    EngineChoice,
    config_from_dict,
    config_to_dict,
    load_config,
)
from deploy.engine.session import Backend, Precision
from export.errors import RecipeError
from export.precision import FloatType
from export.recipe import PRESETS

LEAST = {"model": "some/model", "task": "sst2", "out": "out"}


def test_only_model_task_and_folder_are_needed():
    assert config_from_dict(LEAST) == BuildConfig(model="some/model", task="sst2", out=Path("out"))


def test_every_option_is_read_as_the_command_line_spells_it():
    config = config_from_dict(
        {
            **LEAST,
            "precision": "fp8, int8,fp8",
            "data_dir": "data",
            "engine": "tensorrt-rtx",
            "target": "SM89,sm120",
            "backend": "onnxruntime",
            "high_precision": "bf16",
            "buckets": "128,64,64",
            "max_batch": "8",
            "calib_samples": 16,
            "seed": 3,
            "recipe": ["int8"],
            "max_drop": "0.01",
            "min": ["accuracy=0.9"],
            "min_agreement": "0.98",
            "require_fusion": True,
            "limit": 20,
        }
    )
    assert config == BuildConfig(
        model="some/model",
        task="sst2",
        out=Path("out"),
        precision=(Precision.FP8, Precision.INT8),
        data_dir=Path("data"),
        engine=EngineChoice.TENSORRT_RTX,
        target=("sm89", "sm120"),
        backend=Backend.ONNXRUNTIME,
        high_precision=FloatType.BF16,
        buckets=(64, 128),
        max_batch=8,
        calib_samples=16,
        seed=3,
        recipe=(PRESETS["int8"],),
        max_drop=0.01,
        min={"accuracy": 0.9},
        min_agreement=0.98,
        require_fusion=True,
        limit=20,
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"backend": "auto", "precision": ["fp16", "fp8"], "buckets": [32, 64], "max_drop": 0},
        {"min": {"accuracy": 0.9}, "min_agreement": 0.98},
        {"min": "accuracy = 0.9"},
        {"data_dir": "d", "engine": "none", "high_precision": "bf16", "recipe": "fp8"},
        {"target": "sm86,sm120", "require_fusion": True, "limit": 5, "seed": 7},
        {
            "workspace_mib": 512,
            "optimization_level": 0,
            "hardware_compatibility": "same-compute-capability",
            "version_compatible": True,
        },
    ],
)
def test_round_trip_through_yaml(options, tmp_path):
    config = config_from_dict({**LEAST, **options})
    file = tmp_path / "build.yaml"
    file.write_text(yaml.safe_dump(config_to_dict(config)), encoding="utf-8")
    assert config_from_dict(load_config(file)) == config


def test_a_recipe_of_ones_own_survives_the_round_trip():
    own = replace(PRESETS["fp8"], exclude=("layer0.*",))  # still named as the preset it was
    config = replace(config_from_dict(LEAST), recipe=(own,))
    again = config_from_dict(yaml.safe_load(yaml.safe_dump(config_to_dict(config))))
    assert again.recipe_for(Precision.FP8) == own


def test_recipe_replaces_the_default_of_its_own_format_only():
    own = replace(PRESETS["int8"], name="mine")
    config = replace(
        config_from_dict({**LEAST, "precision": "fp8,int8"}),
        recipe=(own,),
    )
    assert config.recipe_for(Precision.INT8) is own
    assert config.recipe_for(Precision.FP8) is PRESETS["fp8"]


def test_tilde_is_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = config_from_dict({**LEAST, "model": "~/m", "out": "~/o", "data_dir": "~/d"})
    assert config.model == str(tmp_path / "m")
    assert (config.out, config.data_dir) == (tmp_path / "o", tmp_path / "d")


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("task", "frob", "frob"),
        ("precision", "fp9", "fp9"),
        ("precision", "", "--precision"),
        ("engine", "frob", "tensorrt-rtx"),
        ("target", "frob", "frob"),
        ("target", ",", "--target"),
        ("backend", "frob", "onnxruntime"),
        ("high_precision", "fp32", "bf16"),
        ("high_precision", "fp8", "bf16"),
        ("buckets", "0", "--buckets"),
        ("buckets", "a,b", "'a'"),
        ("buckets", [], "--buckets"),
        ("max_batch", 0, "--max-batch"),
        ("max_batch", True, "--max-batch"),
        ("workspace_mib", 0, "--workspace-mib"),
        ("optimization_level", 6, "at most 5"),
        ("hardware_compatibility", "all", "same-compute-capability"),
        ("version_compatible", "yes", "version_compatible"),
        ("calib_samples", 0, "--calib-samples"),
        ("calib_samples", 2.5, "2.5"),
        ("seed", -1, "--seed"),
        ("limit", 0, "--limit"),
        ("max_drop", 5, "--max-drop"),
        ("max_drop", "nan", "--max-drop"),
        ("min", "accuracy", "METRIC=VALUE"),
        ("min", {"f1": 0.5}, "any of: accuracy"),
        ("min", {"accuracy": None}, "'None'"),
        ("min_agreement", 98, "--min-agreement"),
        ("max_drop", "little", "little"),
        ("require_fusion", "no", "require_fusion"),
        ("recipe", "frob", "frob"),
        ("recipe", "int8", "int8"),
        ("recipe", ["fp8", "fp8"], "fp8"),
        ("recipe", {"name": "x"}, "format"),
        ("recipe", "{name: x, kinds: {}}", "format"),
        ("recipe", ["{name: x"], "not YAML"),
        ("model", "", "--model"),
        ("out", " ", "--out"),
        ("out", "~no-such-user-here/x", "~no-such-user-here"),
        ("fancy", 1, "fancy"),
        (3, 1, "'3'"),
    ],
)
def test_bad_value_is_wrong_usage_and_is_named(option, value, said):
    with pytest.raises(ToolchainError) as caught:
        config_from_dict({**LEAST, option: value})
    assert caught.value.exit_code == 2
    assert said in caught.value.message + caught.value.remedy


@pytest.mark.parametrize("name", LEAST)
def test_missing_option_is_named(name):
    with pytest.raises(UsageError, match=f"--{name} is missing"):
        config_from_dict({key: value for key, value in LEAST.items() if key != name})


def test_unknown_task_and_recipe_have_errors_of_their_own():
    with pytest.raises(UnknownTaskError):
        config_from_dict({**LEAST, "task": "frob"})
    with pytest.raises(RecipeError):
        config_from_dict({**LEAST, "recipe": "frob"})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "holds no options"),
        (b"- a\n- b\n", "holds no options"),
        (b"model: x\ntask: [\n", "build.yaml:3' is not YAML"),
        (b"\xff\xfe", "is not YAML"),
        (None, "cannot read"),
    ],
)
def test_unusable_file_is_wrong_usage(content, said, tmp_path):
    file = tmp_path / "build.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError, match=r"build\.yaml") as caught:
        load_config(file)
    assert said in caught.value.message
