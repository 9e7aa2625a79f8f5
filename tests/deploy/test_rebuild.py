"""The command that makes a build again asks for that very build."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deploy.config import BuildConfig, config_from_dict, config_to_dict
from deploy.rebuild import build_command
from export.recipe import PRESETS, recipe_to_dict

LEAST = {"model": "org/model", "task": "mrpc", "out": "out"}
TUNED = {
    **recipe_to_dict(PRESETS["int8"]),
    "name": 'it\'s "mine", 100 % $HOME',
    "exclude": ["bert.encoder.layer.11.*", "*.[qk]"],
    "smoothquant": 0.55,
}
EVERYTHING: dict[str, Any] = {
    "model": "a model/with 'quotes'",
    "task": "mrpc",
    "out": "out/a build",
    "precision": ["fp16", "int8", "fp8"],
    "data_dir": "some data",
    "engine": "tensorrt",
    "target": ["sm120", "sm89"],
    "backend": "tensorrt-rtx",
    "high_precision": "bf16",
    "buckets": [16, 128],
    "max_batch": 4,
    "workspace_mib": 512,
    "optimization_level": 0,
    "hardware_compatibility": "same-compute-capability",
    "version_compatible": True,
    "calib_samples": 7,
    "seed": 3,
    "recipe": ["fp8-mlperf", TUNED],
    "max_drop": 0.0,
    "min": {"accuracy": 1e-05, "f1": -0.5},
    "min_agreement": 0.98,
    "require_fusion": True,
    "limit": 60,
    "allow_pickle": True,
}


def test_this_sets_every_option_there_is():
    default = config_to_dict(BuildConfig(model="", task="", out=Path()))
    config = config_to_dict(config_from_dict(EVERYTHING))
    assert [name for name in default if config[name] == default[name]] == []


@pytest.mark.parametrize("plain", [LEAST, EVERYTHING], ids=["least", "everything"])
def test_the_command_asks_for_the_same_build(plain, asked_of_build):
    config = config_from_dict(plain)
    command = build_command(config_to_dict(config), config.out)
    assert "\n" not in command
    assert asked_of_build(command) == config


def test_what_is_not_asked_for_is_not_said():
    config = config_to_dict(config_from_dict(LEAST))
    command = "deploy build --model org/model --task mrpc --out elsewhere --precision fp8"
    assert build_command(config, Path("elsewhere")) == command
    assert build_command(config, Path("elsewhere"), ["compile"]) == f"{command} --force compile"
