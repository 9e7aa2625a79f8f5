"""What a user hands in, mutated: each file is refused in words, or read as what it says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
import yaml
from checkpoints import save_random_checkpoint
from deploy_hostile import ends_well, mutated, replaced
from mutations import (
    mutate_bytes,
    mutate_json,
    mutate_safetensors,
    mutate_text,
    mutate_yaml,
)

from calib_data.errors import TokenizationError
from calib_data.features import tokenize
from calib_data.progress import SilentProgress
from calib_data.sources import load_examples
from calib_data.tasks import Split, TextExample, get_task
from deploy.config import config_from_dict, config_to_dict, load_config
from export.architectures import get_architecture
from export.checkpoint import label_names, load_checkpoint
from export.recipe import PRESETS, load_recipe, recipe_to_dict, select_sites
from export.sites import encoder_sites

CONFIG = """
model: demo
task: sst2
out: out
precision: [fp8, fp16]
data_dir: data
engine: none
target: [sm89]
backend: onnxruntime
high_precision: bf16
buckets: [32, 64]
max_batch: 8
workspace_mib: 100
optimization_level: 3
calib_samples: 16
seed: 1
recipe: [fp8]
max_drop: 0.1
min: {accuracy: 0.5}
min_agreement: 0.5
require_fusion: false
limit: 10
"""

TASK = """
name: tickets
train: rows.jsonl
dev: [rows.jsonl]
text: [title, body]
label: queue
labels: [a, b]
metrics: [accuracy, matthews]
max_length: 64
buckets: [32, 64]
type: classification
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return save_random_checkpoint(tmp_path_factory.mktemp("model"), layers=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A task's files, in every layout."""
    folder = tmp_path_factory.mktemp("data")
    rows = [{"title": f"w{i}", "body": "w2 w3", "queue": "ab"[i % 2]} for i in range(6)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    (folder / "rows.csv").write_text("\n".join(lines))
    (folder / "rows.tsv").write_text("\n".join(lines).replace(",", "\t"))
    table = pa.Table.from_pylist(rows)
    pyarrow.parquet.write_table(table, folder / "rows.parquet")
    pyarrow.feather.write_feather(table, folder / "rows.arrow")
    (folder / "task.yaml").write_text(TASK)
    (folder / "build.yaml").write_text(CONFIG)
    recipe = {**recipe_to_dict(PRESETS["int8"]), "exclude": ["*.layer.0.attention.*"]}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    glue = folder / "glue" / "SST-2"
    glue.mkdir(parents=True)
    (glue / "dev.tsv").write_text("sentence\tlabel\n" + "w1 w2\t0\nw3\t1\n" * 3)
    questions = [
        {"id": f"q{i}", "question": "w1?", "answers": [{"text": "w2", "answer_start": 3}]}
        for i in range(3)
    ]
    squad = folder / "squad"
    squad.mkdir()
    article = {"title": "t", "paragraphs": [{"context": "w1 w2 w3", "qas": questions}]}
    (squad / "dev-v1.1.json").write_text(json.dumps({"version": "1.1", "data": [article]}))
    return folder


@mutated(20)
def test_a_configuration_file(folder, seed):
    path = folder / "build.yaml"
    with replaced(path, mutate_yaml, seed):
        ends_well(lambda: json.dumps(config_to_dict(config_from_dict(load_config(path)))))


@mutated(20)
def test_a_recipe(folder, seed):
    path = folder / "recipe.yaml"
    sites = encoder_sites(get_architecture("bert"), 1)
    with replaced(path, mutate_yaml, seed):
        ends_well(lambda: select_sites(load_recipe(str(path)), sites))


@mutated(20)
def test_a_task_file(folder, seed):
    path = folder / "task.yaml"
    with replaced(path, mutate_yaml, seed):
        ends_well(lambda: load_examples(get_task(str(path)), Split.DEV, None))


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv", "parquet", "arrow"])
@mutated(12)
def test_a_file_of_rows(folder, suffix, seed):
    task = folder / f"{suffix}.yaml"
    task.write_text(TASK.replace("rows.jsonl", f"rows.{suffix}"))
    mutate = mutate_bytes if suffix in ("parquet", "arrow") else mutate_text
    with replaced(folder / f"rows.{suffix}", mutate, seed):
        ends_well(lambda: load_examples(get_task(str(task)), Split.DEV, None))


@mutated(12)
def test_a_file_of_glue(folder, seed):
    with replaced(folder / "glue" / "SST-2" / "dev.tsv", mutate_text, seed):
        ends_well(lambda: load_examples(get_task("sst2"), Split.DEV, folder))


@mutated(20)
def test_a_file_of_squad(folder, seed):
    with replaced(folder / "squad" / "dev-v1.1.json", mutate_json, seed):
        ends_well(lambda: load_examples(get_task("squad"), Split.DEV, folder))


@pytest.mark.parametrize(
    ("name", "mutate"),
    [
        ("config.json", mutate_json),
        ("tokenizer.json", mutate_json),
        ("tokenizer_config.json", mutate_json),
        ("model.safetensors", mutate_safetensors),
    ],
)
@mutated(20)
def test_a_file_of_a_checkpoint(checkpoint, name, mutate, seed):
    task = get_task("sst2")

    def use():
        loaded = load_checkpoint(str(checkpoint), task)
        examples = (TextExample("0", ("w1 w2 unheard",), 0),)
        tokenize(task, loaded.tokenizer, examples, 64, SilentProgress())

    with replaced(checkpoint / name, mutate, seed):
        ends_well(use)


def test_a_vocabulary_without_the_token_for_unknown_words(checkpoint, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(checkpoint, folder)
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    del content["model"]["vocab"][content["model"]["unk_token"]]
    content["added_tokens"] = []
    path.write_text(json.dumps(content), encoding="utf-8")
    task = get_task("sst2")
    tokenizer = load_checkpoint(str(folder), task).tokenizer
    tokenizer.backend_tokenizer.model.unk_token = "[GONE]"
    with pytest.raises(TokenizationError, match="tokenizer fails: WordPiece error"):
        tokenize(task, tokenizer, (TextExample("0", ("w1 unheard",), 0),), 64, SilentProgress())


@mutated(15)
def test_the_labels_of_a_checkpoint(checkpoint, tmp_path_factory, seed):
    named = tmp_path_factory.getbasetemp() / "named"
    if not named.exists():
        shutil.copytree(checkpoint, named)
        config = json.loads((named / "config.json").read_text())
        config["id2label"] = {"0": "bad", "1": "good"}
        (named / "config.json").write_text(json.dumps(config))
    with replaced(named / "config.json", mutate_json, seed):
        ends_well(lambda: label_names(str(named)))
