"""`deploy tune` on real models: what is planted ranks first, falls back, and is written down."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
import yaml
from checkpoints import save_random_checkpoint
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from calib_data.progress import SilentProgress
from calib_data.sampler import sample_examples
from deploy.artifacts import read_json
from deploy.inputs import load_inputs
from deploy.tune.config import TuneConfig, tune_config_from_dict
from deploy.tune.pipeline import tune, tuning_rows
from export.recipe import (
    PRESETS,
    QuantFormat,
    QuantRecipe,
    load_recipe,
    recipe_to_dict,
)

PLANTED = "1 ffn out"
CALIBRATION, TUNING = 16, 48
MAX_DROP = 0.05  # of 48 examples: one alone is no reason to give a unit up
QUICK = ("--calib-samples", CALIBRATION, "--tune-samples", TUNING, "--buckets", "32")
QUICK = (*QUICK, "--max-drop", MAX_DROP, "--high-precision", "bf16")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """Two layers, of which INT8 ruins one linear: a channel of its input that no weight reads.

    The second layer's GELU gives 300 in one channel, and the weights of that channel are 0. FP32
    does not notice. The scale of INT8 grows so that all other channels become 0.
    """
    folder = save_random_checkpoint(tmp_path_factory.mktemp("planted"))
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    layer = model.bert.encoder.layer[1]
    with torch.no_grad():
        layer.output.dense.weight *= 4
        layer.intermediate.dense.weight[0] = 0
        layer.intermediate.dense.bias[0] = 300
        layer.output.dense.weight[:, 0] = 0
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data(checkpoint, tmp_path_factory) -> tuple[Path, Path]:
    """Rows labelled by the model itself; two folders that differ in their development set.

    The second one has the rows that the model is least sure of.
    """
    rng = np.random.default_rng(0)
    texts = [
        " ".join(f"w{i}" for i in rng.integers(0, 110, length))
        for length in rng.integers(6, 24, 400)
    ]
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint)
    batch = AutoTokenizer.from_pretrained(checkpoint)(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    margin = (logits[:, 1] - logits[:, 0]).double()
    shift = float(
        margin.median()
    )  # folded into the classifier below: half the rows are of each class
    with torch.no_grad():
        model.classifier.bias[0] += shift
    model.save_pretrained(checkpoint)
    margin = (margin - shift).numpy()
    sure = np.argsort(-np.abs(margin))
    train, plain, hard = np.delete(sure[:150], np.s_[::3]), sure[:150:3], sure[-60:]
    folders = []
    for name, dev in (("plain", plain), ("hard", hard)):
        folder = tmp_path_factory.mktemp(name)
        for split, rows in (("train", train), ("dev", dev)):
            lines = [f"{texts[row]}\t{int(margin[row] > 0)}" for row in rows]
            path = folder / "glue" / "SST-2" / f"{split}.tsv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(["sentence\tlabel", *lines]) + "\n", encoding="utf-8")
        folders.append(folder)
    return folders[0], folders[1]


def config_for(checkpoint, data_dir, recipe, out) -> TuneConfig:
    return tune_config_from_dict(
        {
            "model": str(checkpoint),
            "task": "sst2",
            "data_dir": data_dir,
            "precision": "int8",
            "calib_samples": CALIBRATION,
            "tune_samples": TUNING,
            "buckets": "32",
            "max_drop": MAX_DROP,
            "high_precision": "bf16",
            "out": out,
            "recipe": str(recipe),
        }
    )


@pytest.fixture(scope="module")
def last_layer(tmp_path_factory) -> Path:
    """INT8 in the last layer alone, so that there are few units to measure."""
    # Max, and no rewrite rule: a percentile or SmoothQuant would mend what is planted.
    kinds = PRESETS["int8-smoothquant"].kinds
    recipe = QuantRecipe("last-layer", QuantFormat.INT8, kinds, exclude=("*.layer.0.*",))
    path = tmp_path_factory.mktemp("recipe") / "last-layer.yaml"
    path.write_text(yaml.safe_dump(recipe_to_dict(recipe)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tuned(checkpoint, data, last_layer, tmp_path_factory):
    out = tmp_path_factory.mktemp("tuned") / "out"
    return out, tune(config_for(checkpoint, data[0], last_layer, out))


def test_the_planted_unit_ranks_first_and_alone_falls_back(tuned):
    out, results = tuned
    assert results == read_json(out / "tune.json")
    assert results["units"][0]["name"] == PLANTED
    assert results["units"][0]["damage_share"] > 0.5
    assert results["fallbacks"] == [PLANTED]
    tuning = results["tuning"]
    assert tuning["base"]["accuracy"]["relative_drop"] > results["max_drop"]
    assert tuning["tuned"]["accuracy"]["relative_drop"] <= results["max_drop"]
    planted = results["units"][0]
    assert planted["only"]["agreement"] < planted["without"]["agreement"]
    assert 0 < results["benefit"]["seconds_tuned"] < results["benefit"]["seconds_base"]
    assert all(gate["passed"] for gate in results["gates"])


def test_the_files_say_where_they_come_from(tuned):
    out, results = tuned
    assert {path.name for path in out.iterdir()} == {
        ".lock",
        "recipe.yaml",
        "sensitivity.svg",
        "tune.json",
    }
    header = (out / "recipe.yaml").read_text(encoding="utf-8")
    for said in (
        "# base recipe: last-layer;",
        "at most 0.05",
        f"{PLANTED} (1 of 5",
        "H100 SXM, 32 x 32",
    ):
        assert said in header
    text = "".join(ElementTree.parse(out / "sensitivity.svg").getroot().itertext())
    assert all(unit["name"] in text for unit in results["units"])
    assert "back in bf16" in text


def test_the_recipe_also_excludes_the_planted_linear_and_nothing_else(tuned, last_layer):
    linear = "bert.encoder.layer.1.output.dense"
    assert load_recipe(str(tuned[0] / "recipe.yaml")) == replace(
        load_recipe(str(last_layer)),
        name="last-layer-tuned",
        exclude=("*.layer.0.*", f"{linear}.input", f"{linear}.weight"),
    )


def test_a_build_takes_the_recipe_and_comes_to_the_same_accuracy(
    tuned, checkpoint, data, run_cli, tmp_path
):
    ran = run_cli(
        *("build", "--model", checkpoint, "--task", "sst2", "--data-dir", data[0]),
        *("--precision", "int8", "--recipe", tuned[0] / "recipe.yaml", "--engine", "none"),
        *("--calib-samples", CALIBRATION, "--buckets", "32", "--out", tmp_path / "b", "--json"),
        *("--high-precision", "bf16"),
    )
    assert ran.code == 0, ran.err
    built, dev = json.loads(ran.out), tuned[1]["dev"]
    assert built["recipes"]["int8"] == tuned[1]["recipe"]
    assert built["compare"]["int8"] == dev["compare"]["tuned"]
    assert built["accuracy"]["int8"]["metrics"] == dev["runs"]["tuned"]["metrics"]


def test_the_search_sees_nothing_of_the_dev_set(
    tuned, checkpoint, data, last_layer, run_cli, tmp_path
):
    ran = run_cli(
        *("tune", "--model", checkpoint, "--task", "sst2", "--data-dir", data[1], *QUICK),
        *("--precision", "int8", "--recipe", last_layer, "--out", tmp_path / "out", "--json"),
    )
    results = json.loads(ran.out)
    for part in ("units", "search", "tuning", "recipe"):
        assert results[part] == tuned[1][part]
    # On rows that the model is unsure of, INT8 costs more than on the training rows.
    assert [gate["passed"] for gate in results["gates"]] == [True, False]
    assert ran.code == 3


def test_no_fallback_is_said_so(checkpoint, data, run_cli, tmp_path):
    recipe = tmp_path / "one-unit.yaml"
    recipe.write_text(
        "name: one-unit\nformat: fp8\nkinds: {linear_input: {}, linear_weight: {}}\n"
        'exclude: ["*.layer.0.*", "*.attention.*", "*.intermediate.*"]\n',
        encoding="utf-8",
    )
    ran = run_cli(
        *("tune", "--model", checkpoint, "--task", "sst2", "--data-dir", data[0], *QUICK),
        *("--precision", "fp8", "--recipe", recipe, "--out", tmp_path / "out"),
    )
    assert ran.code == 0, ran.err
    assert "nothing falls back: with everything in fp8" in ran.out
    found, base = load_recipe(str(tmp_path / "out" / "recipe.yaml")), load_recipe(str(recipe))
    assert found == replace(base, name="one-unit-tuned")


def test_no_row_both_calibrates_and_tunes(checkpoint, data, last_layer, tmp_path):
    config = config_for(checkpoint, data[0], last_layer, tmp_path)
    inputs = load_inputs(config.build, SilentProgress())
    tuning = {example.id for example in tuning_rows(config, inputs, SilentProgress()).examples}
    calibration = {example.id for example in sample_examples(inputs.train, CALIBRATION, 0)}
    train = {example.id for example in inputs.train}
    assert (len(tuning), len(calibration)) == (TUNING, CALIBRATION)
    assert tuning.isdisjoint(calibration)
    assert tuning | calibration <= train


def test_nothing_left_to_tune_on_is_exit_1(checkpoint, data, run_cli, tmp_path):
    ran = run_cli(
        *("tune", "--model", checkpoint, "--task", "sst2", "--data-dir", data[0]),
        *("--calib-samples", "100", "--out", tmp_path / "out"),
    )
    assert (ran.code, ran.out) == (1, "")
    assert "lower --calib-samples" in ran.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--precision", "fp8,int8", "--precision fp8 or"),
        ("--precision", "fp16", "--precision fp8 or"),
        ("--recipe", "int8", "--precision"),
        ("--recipe", "frob", "int8-naive"),
        ("--tune-samples", "0", "at least 1"),
        ("--max-drop", "5", "0.01"),
        ("--task", "frob", "sst2"),
        ("--out", "", "give --out"),
    ],
)
def test_wrong_usage_is_exit_2(option, value, said, run_cli, tmp_path):
    out = tmp_path / "out"
    ran = run_cli("tune", "--model", "demo", "--task", "demo", "--out", out, option, value)
    assert (ran.code, ran.out) == (2, "")
    assert [line.partition(" ")[0] for line in ran.err.splitlines()] == ["error:", "try:"]
    assert said in ran.err
    assert not out.exists()


def test_help_and_usage_errors_load_nothing_heavy():
    heavy = ("torch", "transformers", "modelopt", "onnxruntime", "matplotlib", "sklearn")
    program = f"""
import contextlib, io, sys
from deploy.cli.main import main
for line in ("tune --help", "tune --model m --task sst2 --out o --tune-samples 0"):
    sys.argv = ["deploy", *line.split()]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            main()
        except SystemExit:
            pass
print([name for name in {heavy!r} if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout == "[]\n"
