"""`deploy evaluate` on real builds."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from checkpoints import save_random_checkpoint
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from calib_data.progress import SilentProgress
from deploy.artifacts import BuildFolder, file_hashes, hold_folder, read_json, sha256
from deploy.config import config_from_dict, config_to_dict
from deploy.engine.session import Precision
from deploy.evaluation.config import evaluate_config_from_dict
from deploy.evaluation.pipeline import evaluate_folder
from deploy.pipeline import build

EXAMPLES, BUILT_ON = 4600, 40


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "glue" / "SST-2"
    folder.mkdir(parents=True)
    generator = random.Random(0)
    for name, count in (("train.tsv", 8), ("dev.tsv", EXAMPLES)):
        lines = [
            " ".join(f"w{generator.randrange(100)}" for _ in range(generator.randrange(2, 20)))
            + f"\t{generator.randrange(2)}"
            for _ in range(count)
        ]
        (folder / name).write_text("\n".join(["sentence\tlabel", *lines]) + "\n", encoding="utf-8")
    return folder.parents[1]


def save_undecided_checkpoint(folder: Path, data: Path) -> Path:
    """Random weights, and a bias that makes either class as likely, so that some answers change."""
    save_random_checkpoint(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    lines = (data / "glue/SST-2/dev.tsv").read_text(encoding="utf-8").splitlines()[1:200]
    texts = [line.partition("\t")[0] for line in lines]
    inputs = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits
        model.classifier.bias[1] -= (logits[:, 1] - logits[:, 0]).median()
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def built(data, tmp_path_factory) -> Path:
    checkpoint = save_undecided_checkpoint(tmp_path_factory.mktemp("model"), data)
    out = tmp_path_factory.mktemp("build") / "out"
    options = {"model": checkpoint, "task": "sst2", "data_dir": data, "out": out}
    options |= {"precision": "fp8,fp16", "engine": "none", "calib_samples": 4, "limit": BUILT_ON}
    build(config_from_dict({**options, "buckets": "16,32", "max_batch": 4}))
    return out


@pytest.fixture
def folder(built, tmp_path) -> BuildFolder:
    return BuildFolder(Path(shutil.copytree(built, tmp_path / "out")))


def settled(results):
    """All but the times, which no two runs share."""
    return {
        **results,
        "runs": [{k: v for k, v in run.items() if k != "seconds"} for run in results["runs"]],
    }


def vouches_for_its_files(folder):
    files = read_json(folder.manifest)["files"]
    assert {"results.json", "examples.json", "report.html", "report.md"} <= files.keys()
    return all(sha256(folder.path / name) == entry["sha256"] for name, entry in files.items())


def test_a_build_and_an_evaluation_of_the_same_rows_agree(folder, run_cli):
    before = read_json(folder.results)
    examples = folder.examples.read_bytes()
    ran = run_cli("evaluate", folder.path, "--limit", BUILT_ON, "--json")
    assert (ran.code, ran.err) == (0, "")
    after = json.loads(ran.out)
    assert after == read_json(folder.results)
    assert settled(after) == settled(before)
    assert folder.examples.read_bytes() == examples
    assert vouches_for_its_files(folder)


def test_the_run_on_most_examples_is_the_evidence(folder):
    config = {"out": folder.path, "precision": "fp8"}
    results = evaluate_folder(evaluate_config_from_dict({**config, "limit": 100}))
    assert [(run["precision"], run["n"]) for run in results["runs"]] == [
        ("fp32", BUILT_ON),
        ("fp8", BUILT_ON),
        ("fp16", BUILT_ON),
        ("fp32", 100),
        ("fp8", 100),
    ]
    assert {run["examples_total"] for run in results["runs"]} == {EXAMPLES}
    fp8 = results["runs"][4]
    assert results["accuracy"]["fp8"] == {
        "metrics": fp8["metrics"],
        "n": 100,
        "backend": "onnxruntime",
    }
    assert results["accuracy"]["fp16"]["n"] == BUILT_ON
    assert results["compare"]["fp8"] == fp8["compare"]
    changed = results["changed_examples"]
    assert changed["fp8"]["total"] == fp8["compare"]["changed"] > 0
    assert (
        read_json(folder.examples)["changed_examples"]["fp8"]["total"] == fp8["compare"]["changed"]
    )
    # Fewer examples are no better evidence.
    fewer = evaluate_folder(evaluate_config_from_dict({**config, "limit": 10}))
    for name in ("accuracy", "compare", "changed_examples"):
        assert fewer[name] == results[name]
    assert len(fewer["runs"]) == 7


def test_another_backend_adds_runs(folder):
    config = {"out": folder.path, "limit": BUILT_ON, "backend": "torch", "precision": "fp16"}
    results = evaluate_folder(evaluate_config_from_dict(config))
    runs = [(run["precision"], run["backend"]) for run in results["runs"]]
    assert runs == [
        ("fp32", "onnxruntime"),
        ("fp8", "onnxruntime"),
        ("fp16", "onnxruntime"),
        ("fp32", "torch"),
        ("fp16", "torch"),
    ]
    report = folder.report.read_text(encoding="utf-8")
    assert report.count("| fp16 |") >= 2


def test_gates_are_judged_recorded_and_named(folder, run_cli):
    limits = ("--max-drop", "0.5", "--min", "accuracy=0.999", "--min-agreement", "0.1")
    ran = run_cli("evaluate", folder.path, "--limit", BUILT_ON, *limits)
    assert (ran.code, ran.err) == (3, "")
    assert "gate min.fp8.accuracy: " in ran.out
    gates = {gate["name"]: gate for gate in read_json(folder.results)["gates"]}
    assert {name: gate["passed"] for name, gate in gates.items()} == {
        "max_drop.fp8.accuracy": True,
        "max_drop.fp16.accuracy": True,
        "min.fp8.accuracy": False,
        "min.fp16.accuracy": False,
        "min_agreement.fp8": True,
        "min_agreement.fp16": True,
    }
    assert gates["min.fp8.accuracy"]["limit"] == 0.999
    # JSON alone does not say it to a person who reads the log of a pipeline.
    ran = run_cli("evaluate", folder.path, "--limit", BUILT_ON, *limits, "--json")
    assert ran.code == 3
    assert [line.split(":")[0] for line in ran.err.splitlines()] == [
        "gate min.fp8.accuracy",
        "gate min.fp16.accuracy",
    ]
    json.loads(ran.out)


_ATTEMPTS = """
import os, signal, sys, time
import onnxruntime, sklearn.metrics, transformers
from transformers import AutoTokenizer
from deploy.evaluation.config import evaluate_config_from_dict
from deploy.evaluation.pipeline import evaluate_folder

out, kills, complete = sys.argv[1], 10, int(sys.argv[2])
journals = os.path.join(out, "evaluation")

def size():
    return sum(e.stat().st_size for e in os.scandir(journals)) if os.path.isdir(journals) else 0

before = size()
for number in range(1, kills + 1):
    child = os.fork()
    if not child:
        evaluate_folder(evaluate_config_from_dict({"out": out, "precision": "fp8"}))
        os._exit(0)
    while size() < before + number * (complete - before) // (kills + 1):
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    print(size(), flush=True)
"""


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="needs fork")
def test_killed_ten_times_it_ends_as_if_never_disturbed(built, tmp_path, run_cli):
    calm, disturbed = (
        BuildFolder(Path(shutil.copytree(built, tmp_path / name))) for name in ("calm", "disturbed")
    )
    expected = evaluate_folder(evaluate_config_from_dict({"out": calm.path, "precision": "fp8"}))
    assert expected["changed_examples"]["fp8"]["total"] > 0
    complete = sum(path.stat().st_size for path in calm.journals.iterdir())
    for name in ("fp32", "fp8"):  # those that are about to be evaluated
        (disturbed.journals / f"{name}.onnxruntime.journal").unlink()
    # A process whose imports are done forks each attempt, and kills it when its journal is so long.
    done = subprocess.run(
        [sys.executable, "-c", _ATTEMPTS, str(disturbed.path), str(complete)],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    sizes = list(map(int, done.stdout.split()))
    assert len(sizes) == 10
    assert len(set(sizes)) > 2, "no kill fell between two batches"
    assert sizes == sorted(sizes)
    assert sizes[-1] < complete
    ran = run_cli("evaluate", disturbed.path, "--precision", "fp8", "--log-level", "info")
    assert ran.code == 0
    assert settled(read_json(disturbed.results)) == settled(expected)
    assert disturbed.examples.read_bytes() == calm.examples.read_bytes()
    assert vouches_for_its_files(disturbed)


class Stopping(SilentProgress):
    """Interrupts in a batch of an evaluation, as Ctrl-C does."""

    def __init__(self, after):
        self.left = after

    def track(self, items, description, total):
        for item in items:
            yield item
            self.left -= description.startswith("Evaluating")
            if self.left == 0:
                raise KeyboardInterrupt


def stopped(folder, after):
    config = evaluate_config_from_dict({"out": folder.path, "precision": "fp8", "limit": 200})
    with pytest.raises(KeyboardInterrupt):
        evaluate_folder(config, Stopping(after))


def again(run_cli, out):
    ran = run_cli(
        "evaluate", out, "--precision", "fp8", "--limit", "200", "--log-level", "info", "--json"
    )
    assert ran.code == 0
    return json.loads(ran.out), ran.err


def test_it_goes_on_where_it_was(folder, run_cli, tmp_path):
    calm = Path(shutil.copytree(folder.path, tmp_path / "calm"))
    stopped(folder, after=30)
    assert read_json(folder.results)["accuracy"]["fp32"]["n"] == BUILT_ON
    # Both have what the build itself was told.
    assert known(again(run_cli, folder.path)[1]) == known(again(run_cli, calm)[1]) + 30


def known(said):
    """Batches that FP32's journal held."""
    return int(re.search(r"fp32\S+: going on after (\d+) batches", said)[1])


def test_a_build_that_was_stopped_while_it_evaluated_goes_on_there(folder, run_cli, tmp_path):
    plain = read_json(folder.results)["config"]
    config = config_from_dict({**plain, "out": str(tmp_path / "new"), "precision": "fp16"})
    with pytest.raises(KeyboardInterrupt):
        build(config, Stopping(after=7))
    new = BuildFolder(config.out)
    assert not new.results.exists()
    (tmp_path / "config.yaml").write_text(json.dumps(config_to_dict(config)), encoding="utf-8")
    ran = run_cli("build", "--config", tmp_path / "config.yaml", "--log-level", "info")
    assert (ran.code, "going on after 7 batches" in ran.err) == (0, True)
    assert vouches_for_its_files(new)
    assert read_json(new.manifest)["unfinished"] is None


def test_answers_of_another_model_are_not_taken(folder, tmp_path, run_cli):
    stopped(folder, after=30)
    other = BuildFolder(tmp_path / "other")
    checkpoint = save_random_checkpoint(tmp_path / "model", seed=1)
    plain = read_json(folder.results)["config"]
    build(config_from_dict({**plain, "model": str(checkpoint), "out": str(other.path)}))
    calm, _ = again(run_cli, Path(shutil.copytree(other.path, tmp_path / "calm")))
    shutil.copytree(folder.journals, other.journals, dirs_exist_ok=True)
    results, said = again(run_cli, other.path)
    assert "going on" not in said
    assert settled(results) == settled(calm)


def refused(run_cli, said, *arguments, code=1):
    ran = run_cli("evaluate", *arguments)
    assert (ran.code, ran.out) == (code, "")
    assert [line.partition(" ")[0] for line in ran.err.splitlines()] == ["error:", "try:"]
    assert said in ran.err


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--precision", "int8", "any of: fp32, fp8, fp16"),
        ("--precision", "", "--precision"),
        ("--backend", "frob", "onnxruntime"),
        ("--limit", "0", "at least 1"),
        ("--max-drop", "2", "0 to 1"),
        ("--min", "accuracy", "METRIC=VALUE"),
        ("--min", "f1=0.5", "any of: accuracy"),
        ("--min", "accuracy=x", "'x'"),
        ("--min", "accuracy=95", "0.9 for 90 %"),
        ("--min-agreement", "98", "0.98 for 98 %"),
        ("--min-agreement", "nan", "0.98 for 98 %"),
    ],
)
def test_wrong_usage_is_exit_2_and_writes_nothing(option, value, said, built, run_cli):
    before = file_hashes(BuildFolder(built))
    refused(run_cli, said, built, option, value, code=2)
    assert file_hashes(BuildFolder(built)) == before


def test_what_is_no_finished_build_is_exit_1(folder, run_cli, tmp_path):
    refused(run_cli, "deploy build", tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
    folder.manifest.unlink()
    refused(run_cli, "manifest.json", folder.path)


def test_a_folder_in_use_is_exit_1(folder, run_cli):
    with hold_folder(folder.path):
        refused(run_cli, "is writing", folder.path)


def test_a_model_that_is_not_the_built_one_is_refused(folder, run_cli):
    shutil.copyfile(folder.onnx("fp16"), folder.onnx("fp8"))
    refused(run_cli, "model.fp8.onnx", folder.path)
    assert run_cli("evaluate", folder.path, "--precision", "fp16", "--limit", "8").code == 0


def test_other_examples_than_the_builds_are_refused(folder, data, tmp_path, run_cli):
    other = Path(shutil.copytree(data, tmp_path / "data")) / "glue" / "SST-2" / "dev.tsv"
    text = other.read_text(encoding="utf-8")
    lines = text.split("\n")
    lines[3] = "w1 " + lines[3]
    other.write_text("\n".join(lines), encoding="utf-8")
    before = folder.results.read_bytes()
    data_dir = ("--data-dir", tmp_path / "data")
    refused(run_cli, "not those that this was built with", folder.path, *data_dir, "--limit", 100)
    assert folder.results.read_bytes() == before
    # Of rows that the build had not seen, nothing is known.
    lines[3] = lines[3].removeprefix("w1 ")
    lines[BUILT_ON + 5] = "w1 " + lines[BUILT_ON + 5]
    other.write_text("\n".join(lines), encoding="utf-8")
    assert run_cli("evaluate", folder.path, *data_dir, "--limit", 100).code == 0


@pytest.mark.parametrize(("old", "new"), [("\t1", "\t0"), ("w1 ", "w2 ")], ids=["labels", "texts"])
def test_fewer_examples_are_held_against_the_builds_too(old, new, folder, data, tmp_path, run_cli):
    other = Path(shutil.copytree(data, tmp_path / "data")) / "glue" / "SST-2" / "dev.tsv"
    other.write_text(other.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    fewer = ("--data-dir", tmp_path / "data", "--limit", BUILT_ON // 2)
    refused(run_cli, "not those that this was built with", folder.path, *fewer)


def test_a_tokenizer_that_is_not_the_built_one_is_refused(folder, run_cli):
    added = folder.tokenizer / "added_tokens.json"
    added.write_text("{}", encoding="utf-8")
    refused(run_cli, "added_tokens.json' is not of this build", folder.path, "--limit", 5)
    added.unlink()
    path = folder.tokenizer / "tokenizer.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"w1"', '"w0001"'), encoding="utf-8")
    refused(run_cli, "tokenizer.json' is not the file", folder.path, "--limit", 5)


@pytest.mark.parametrize("command", ["evaluate", "bench", "report", "triton", "compare"])
def test_results_that_were_changed_by_hand_are_not_vouched_for(command, folder, run_cli):
    text = folder.results.read_text(encoding="utf-8")
    folder.results.write_text(text.replace('"n": 40', '"n": 41', 1), encoding="utf-8")
    more = {"compare": [folder.path], "triton": ["--repository", folder.path.parent / "models"]}
    ran = run_cli(command, folder.path, *more.get(command, ()))
    assert ran.code == 1
    assert "results.json' is not the file that the manifest lists" in ran.err
    assert run_cli("verify", folder.path).code == 1


def test_a_model_that_is_not_the_built_one_is_not_measured(folder, run_cli):
    shutil.copyfile(folder.onnx("fp16"), folder.onnx("fp8"))
    quick = ("--precision", "fp8", "--batch", "1", "--iterations", "1", "--seconds", "0")
    ran = run_cli("bench", folder.path, *quick)
    assert (ran.code, ran.out) == (1, "")
    assert "model.fp8.onnx' is not the file that the manifest lists" in ran.err


def test_a_limit_beyond_the_data_takes_all_and_says_so(folder, run_cli):
    ran = run_cli("evaluate", folder.path, "--limit", EXAMPLES + 1, "--precision", "fp32")
    assert ran.code == 0
    assert f"there are {EXAMPLES} examples" in ran.err
    assert read_json(folder.results)["accuracy"][Precision.FP32.value]["n"] == EXAMPLES


def test_a_users_task_is_judged_wherever_the_build_and_the_data_lie(
    data, built, tmp_path, run_cli, monkeypatch
):
    here = tmp_path / "here"
    here.mkdir()
    lines = (data / "glue/SST-2/dev.tsv").read_text(encoding="utf-8").splitlines()[:30]
    for name in ("train.tsv", "dev.tsv"):
        (here / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    (here / "task.yaml").write_text(
        "name: mine\ntrain: train.tsv\ndev: dev.tsv\ntext: sentence\nlabels: ['0', '1']\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(here)
    model = read_json(built / "results.json")["config"]["model"]
    options = {"model": model, "task": "task.yaml", "out": "out", "precision": "fp16"}
    build(config_from_dict({**options, "engine": "none", "calib_samples": 4, "buckets": "32"}))
    there = tmp_path / "there"
    shutil.copytree(here / "out", there / "out")
    (there / "data").mkdir()
    shutil.move(here / "dev.tsv", there / "data" / "dev.tsv")
    monkeypatch.chdir(there)
    served = run_cli("triton", "out", "--repository", "models", "--backend", "onnxruntime")
    assert (served.code, served.err) == (0, "")
    refused(run_cli, "dev.tsv", "out")
    ran = run_cli("evaluate", "out", "--data-dir", "data")
    assert (ran.code, ran.err) == (0, "")
    other = there / "data" / "dev.tsv"
    other.write_text(other.read_text(encoding="utf-8").replace("\t1", "\t0"), encoding="utf-8")
    refused(run_cli, "not those that this was built with", "out", "--data-dir", "data")
