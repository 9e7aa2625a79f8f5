"""Tasks through the whole command: a regression, and a task of the user's own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import yaml
from checkpoints import save_random_checkpoint

HEADER = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore"


@pytest.fixture(scope="module")
def one_output(tmp_path_factory) -> Path:
    return save_random_checkpoint(tmp_path_factory.mktemp("one"), labels=1)


@pytest.fixture(scope="module")
def three_labels(tmp_path_factory) -> Path:
    folder = save_random_checkpoint(tmp_path_factory.mktemp("three"), labels=3)
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {"0": "bug", "1": "other", "2": "Billing"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def words(generator):
    return " ".join(f"w{i}" for i in generator.integers(0, 100, size=generator.integers(3, 25)))


def build(run_cli, model, task, out, *more):
    ran = run_cli(
        *("build", "--model", model, "--task", task, "--out", out, "--json"),
        *("--precision", "fp8", "--engine", "none", "--calib-samples", "16", *more),
    )
    assert ran.code == 0, ran.err
    return json.loads(ran.out)


def test_regression_is_built_judged_and_compared(run_cli, one_output, tmp_path):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    generator = np.random.default_rng(0)
    folder = tmp_path / "data/glue/STS-B"
    folder.mkdir(parents=True)
    rows = [
        (words(generator), words(generator), float(generator.integers(0, 6))) for _ in range(40)
    ]
    lines = [f"{i}\tg\tf\ty\t0\tn\tn\t{a}\t{b}\t{s:.3f}" for i, (a, b, s) in enumerate(rows)]
    for name in ("train.tsv", "dev.tsv"):
        (folder / name).write_text("\n".join([HEADER, *lines, ""]))
    results = build(run_cli, one_output, "stsb", tmp_path / "out", "--data-dir", tmp_path / "data")

    model = AutoModelForSequenceClassification.from_pretrained(one_output).eval()
    tokenizer = AutoTokenizer.from_pretrained(one_output)
    predicted = [model(**tokenizer(a, b, return_tensors="pt")).logits.item() for a, b, _ in rows]
    expected = scipy.stats.pearsonr([score for *_, score in rows], predicted).statistic
    metrics = results["accuracy"]["fp32"]["metrics"]
    assert list(metrics) == ["pearson", "spearman"]
    # The exported model computes in FP32 with its attention scale folded elsewhere.
    assert metrics["pearson"] == pytest.approx(expected, abs=1e-4)
    comparison = results["compare"]["fp8"]
    assert set(comparison) == {"pearson", "spearman", "agreement", "changed"}
    assert comparison["pearson"]["ci95"][0] <= comparison["pearson"]["ci95"][1]
    assert results["labels"] is None


def test_a_task_file_with_the_checkpoints_labels(run_cli, three_labels, tmp_path):
    generator = np.random.default_rng(0)
    names = ["billing", "BUG", "other"]
    rows = [{"body": words(generator), "queue": names[i % 3]} for i in range(48)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plain = {
        "name": "tickets",
        "train": "rows.jsonl",
        "dev": "rows.jsonl",
        "text": "body",
        "label": "queue",
        "metrics": ["matthews", "accuracy"],
        "max_length": 64,
    }
    task = tmp_path / "tickets.yaml"
    task.write_text(yaml.safe_dump(plain))
    results = build(run_cli, three_labels, task, tmp_path / "out")
    assert results["task"].startswith("tickets@")
    assert results["config"]["task"] == str(task)
    assert results["labels"]["names"] == ["bug", "other", "Billing"]
    assert list(results["accuracy"]["fp32"]["metrics"]) == ["matthews", "accuracy"]
    table = json.loads((tmp_path / "out/calibration.json").read_text())
    assert table["source"]["task"] == results["task"]

    # The same labels in another order are the same predictions.
    task.write_text(yaml.safe_dump({**plain, "labels": names}))
    again = build(run_cli, three_labels, task, tmp_path / "again")
    assert again["labels"]["outputs"] == [2, 0, 1]
    assert again["accuracy"]["fp32"]["metrics"] == results["accuracy"]["fp32"]["metrics"]
    assert again["task"] != results["task"]


def test_other_labels_than_the_checkpoints_are_refused(run_cli, three_labels, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"body": "w1", "queue": "a"}\n')
    fields = {"name": "t", "dev": "rows.jsonl", "text": "body", "label": "queue"}
    task = tmp_path / "t.yaml"
    task.write_text(yaml.safe_dump({**fields, "labels": ["a", "b", "c"]}))
    out = tmp_path / "out"
    ran = run_cli(
        "build", "--model", three_labels, "--task", task, "--precision", "fp32", "--out", out
    )
    assert ran.code == 1
    assert "names its labels bug, other, Billing" in ran.err
    assert not out.exists()


def test_a_task_file_that_is_wrong_is_wrong_usage(run_cli, tmp_path):
    task = tmp_path / "t.yaml"
    task.write_text("name: t\ntext: body\n")
    ran = run_cli("build", "--model", "x/y", "--task", task, "--out", tmp_path / "out")
    assert ran.code == 2
    assert "t.yaml: dev is missing" in ran.err


def test_files_of_a_user_move_with_the_task_file(run_cli, three_labels, tmp_path, monkeypatch):
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    (before / "rows.csv").write_text("body,queue\nw1 w2,bug\nw3,other\n")
    (before / "t.yaml").write_text("{name: t, dev: rows.csv, text: body, label: queue}")
    shutil.move(before, after)
    monkeypatch.chdir(tmp_path)
    ran = run_cli(
        *("build", "--model", three_labels, "--task", "after/t.yaml", "--precision", "fp32"),
        *("--engine", "none", "--out", "out"),
    )
    assert ran.code == 0, ran.err
