"""Labels that a model numbers otherwise than the task does, named or not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from calib_data.tasks import TASKS, TextExample
from deploy.evaluation.label_order import seems_permuted
from deploy.evaluation.predictions import ClassPredictions, ValuePredictions

SHARED = Path(__file__).parents[2] / "../shared"


def case(count, accuracy, classes=3, order=None):
    generator = np.random.default_rng(0)
    labels = generator.integers(0, classes, size=count)
    wrong = (labels + generator.integers(1, classes, size=count)) % classes
    predicted = np.where(generator.random(count) < accuracy, labels, wrong)
    if order:
        predicted = np.array(order)[predicted]
    examples = tuple(TextExample(str(i), ("x",), int(label)) for i, label in enumerate(labels))
    return examples, ClassPredictions(np.eye(classes, dtype=np.float32)[predicted])


@pytest.mark.parametrize(
    ("count", "accuracy", "order", "suspected"),
    [
        (2000, 0.85, None, False),
        (2000, 1 / 3, None, False),  # a model that knows nothing
        (2000, 0.85, (1, 2, 0), True),
        (2000, 0.85, (2, 1, 0), False),  # right on the third class: no worse than guessing
        (5, 0.0, None, False),  # too few to tell
    ],
)
def test_far_below_chance_is_suspicious(count, accuracy, order, suspected):
    examples, predictions = case(count, accuracy, order=order)
    assert seems_permuted(TASKS["mnli"], examples, predictions) is suspected


def test_numbers_have_no_order():
    examples = (TextExample("0", ("x", "y"), 1.0),) * 50
    predictions = ValuePredictions(np.zeros(50, dtype=np.float32))
    assert not seems_permuted(TASKS["stsb"], examples, predictions)


@pytest.fixture
def swapped(demo_model, tmp_path) -> Path:
    """The demo model with the rows of its classifier swapped, its configuration as it was."""
    folder = Path(shutil.copytree(demo_model, tmp_path / "swapped"))
    tensors = load_file(folder / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        tensors[name] = np.ascontiguousarray(tensors[name][::-1])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def rename(folder, names):
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {str(index): name for index, name in enumerate(names)}
    config["label2id"] = {name: index for index, name in enumerate(names)}
    (folder / "config.json").write_text(json.dumps(config))


def evaluate(run_cli, folder, out):
    ran = run_cli(
        *("build", "--model", folder, "--task", "demo", "--precision", "fp32", "--engine", "none"),
        *("--limit", "200", "--json", "--out", out),
    )
    assert ran.code == 0, ran.err
    return json.loads(ran.out), ran.err


def test_named_labels_are_put_into_the_tasks_order(run_cli, swapped, tmp_path):
    rename(swapped, ["POS", "NEG"])
    results, said = evaluate(run_cli, swapped, tmp_path / "out")
    assert results["accuracy"]["fp32"]["metrics"]["accuracy"] > 0.9
    assert results["labels"] == {
        "names": ["negative", "positive"],
        "outputs": [1, 0],
        "suspected_permutation": False,
    }
    assert "permuted" not in said


def test_unnamed_labels_in_another_order_are_suspected(run_cli, swapped, tmp_path):
    rename(swapped, ["LABEL_0", "LABEL_1"])
    results, said = evaluate(run_cli, swapped, tmp_path / "out")
    assert results["accuracy"]["fp32"]["metrics"]["accuracy"] < 0.1
    assert results["labels"]["outputs"] is None
    assert results["labels"]["suspected_permutation"] is True
    assert "labels may be permuted" in said
    assert "id2label" in said


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared data")
def test_a_real_checkpoint_scores_the_same_in_either_order(run_cli, tmp_path):
    folder = Path(shutil.copytree(SHARED / "checkpoints/minilm-mrpc", tmp_path / "model"))
    tensors = load_file(folder / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        tensors[name] = np.ascontiguousarray(tensors[name][::-1])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    rename(folder, ["Equivalent", "Not Equivalent"])
    ran = run_cli(
        *("build", "--model", folder, "--task", "mrpc", "--data-dir", SHARED / "data", "--json"),
        *("--precision", "fp32", "--engine", "none", "--out", tmp_path / "out"),
    )
    metrics = json.loads(ran.out)["accuracy"]["fp32"]["metrics"]
    assert metrics == {
        "accuracy": pytest.approx(0.8039, abs=5e-5),
        "f1": pytest.approx(0.8684, abs=5e-5),
    }
