"""Checkpoints that would hang, fill the memory, compute nonsense or run code."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from checkpoints import save_random_checkpoint
from safetensors.torch import load_file, save_file

from calib_data.tasks import get_task
from deploy.config import config_from_dict
from export.checkpoint import load_checkpoint
from export.errors import CheckpointError, UnsupportedModelError

TASK = get_task("sst2")


@pytest.fixture
def folder(tmp_path) -> Path:
    return save_random_checkpoint(tmp_path / "model", layers=1)


@pytest.fixture
def pickled(folder) -> Path:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    return folder


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        # These two kept `transformers` busy without end.
        ("num_hidden_layers", 10**7, "num_hidden_layers 10000000"),
        ("num_labels", 10**7, "num_labels 10000000"),
        # These three took gigabytes before the weights were looked at.
        ("intermediate_size", 10**7, "intermediate_size 10000000"),
        ("vocab_size", 10**7, "vocab_size 10000000"),
        ("max_position_embeddings", 10**7, "max_position_embeddings 10000000"),
        ("hidden_size", 2**31, "a width of 2147483648"),
        ("num_attention_heads", -1, "num_attention_heads -1"),
        ("num_attention_heads", 128, "128 attention heads in a width of 64"),
        # No layer at all: a model that quantizes nothing, and says so nowhere.
        ("num_hidden_layers", 0, "num_hidden_layers 0"),
        ("vocab_size", True, "vocab_size True"),
        ("vocab_size", 10**40, "beyond 64 bits"),
        ("architectures", [["BertForSequenceClassification"]], "not a list of names"),
        ("architectures", 3, "not a list of names"),
    ],
)
def test_a_configuration_that_the_weights_belie(folder, setting, value, said):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), setting: value}))
    with pytest.raises(CheckpointError, match=said):
        load_checkpoint(str(folder), TASK)


@pytest.mark.parametrize("content", ["", "[]", "3", "[" * 100_000, '{"model_type": "bert", ' * 2])
def test_a_configuration_that_is_none(folder, content):
    (folder / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_checkpoint(str(folder), TASK)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused_by_name(folder, value):
    weights = load_file(folder / "model.safetensors")
    name = "bert.encoder.layer.0.attention.self.key.weight"
    weights[name][3, 5] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=f"NaN or infinity in its tensor {name}"):
        load_checkpoint(str(folder), TASK)


def test_a_checkpoint_cannot_bring_code(folder, tmp_path):
    trap = tmp_path / "sprung"
    path = folder / "config.json"
    (folder / "evil.py").write_text(f"open({str(trap)!r}, 'w')")
    names = {"AutoConfig": "evil.C", "AutoModelForSequenceClassification": "evil.M"}
    path.write_text(json.dumps({**json.loads(path.read_text()), "auto_map": names}))
    load_checkpoint(str(folder), TASK)
    assert not trap.exists()


@pytest.mark.parametrize("code", [{}, {"auto_map": {"AutoConfig": "evil.C"}}], ids=["", "code"])
def test_another_kind_of_model_is_named_with_what_can_be_built(code, folder):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": "mine", **code}))
    with pytest.raises(UnsupportedModelError, match="a model of type 'mine'") as refused:
        load_checkpoint(str(folder), TASK)
    assert ("code of a checkpoint is never run" in refused.value.message) == bool(code)
    assert "one of: bert, roberta" in refused.value.remedy


def test_pickle_is_refused_without_the_flag(pickled):
    with pytest.raises(CheckpointError, match="only as pickle") as refused:
        load_checkpoint(str(pickled), TASK)
    assert "--allow-pickle" in refused.value.remedy


def test_pickle_with_the_flag_gives_the_same_weights(pickled, tmp_path):
    same = load_checkpoint(str(save_random_checkpoint(tmp_path / "other", layers=1)), TASK)
    loaded = load_checkpoint(str(pickled), TASK, allow_pickle=True)
    weights, expected = loaded.model.state_dict(), same.model.state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_pickle_with_the_flag_still_runs_nothing(pickled, tmp_path):
    class Trap:
        def __reduce__(self):
            return open, (str(tmp_path / "sprung"), "w")

    content = pickle.dumps({"weight": Trap(), "as long as weights": bytes(300_000)})
    (pickled / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match="holds more than tensors") as refused:
        load_checkpoint(str(pickled), TASK, allow_pickle=True)
    assert "weights_only" not in refused.value.message  # torch says how to open it all the same
    assert "safetensors" in refused.value.remedy
    assert not (tmp_path / "sprung").exists()


def test_the_flag_reaches_the_build():
    options = {"model": "demo", "task": "demo", "out": "out"}
    assert not config_from_dict(options).allow_pickle
    assert config_from_dict({**options, "allow_pickle": True}).allow_pickle
