import json
import shutil
from http import HTTPStatus
from pathlib import Path

import pytest
import torch
from checkpoints import make_tokenizer, save_random_checkpoint
from hub import Answer, Hub
from transformers import (
    AutoModelForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
)

from calib_data.errors import NetworkError, ToolchainError
from calib_data.tasks import get_task
from export.checkpoint import label_names, load_checkpoint
from export.errors import CheckpointError, UnsupportedModelError

SST2, STSB, SQUAD = get_task("sst2"), get_task("stsb"), get_task("squad")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_checkpoint(tmp_path_factory.mktemp("saved"))


@pytest.fixture
def broken(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "broken"))


def test_half_precision_checkpoint_becomes_an_fp32_reference(tmp_path: Path) -> None:
    folder = save_random_checkpoint(tmp_path, dtype=torch.float16)
    checkpoint = load_checkpoint(str(folder), SST2)
    assert {p.dtype for p in checkpoint.model.parameters()} == {torch.float32}


def test_folding_the_attention_scale_changes_nothing(saved: Path) -> None:
    original = AutoModelForSequenceClassification.from_pretrained(saved).eval()
    folded = load_checkpoint(str(saved), SST2).model
    tokens = {"input_ids": torch.arange(4, 44)[None], "attention_mask": torch.ones(1, 40)}
    with torch.inference_mode():
        expected, actual = original(**tokens).logits, folded(**tokens).logits
    # Head dim 32: 1/sqrt(32) is not a power of two, so weights round once more, by 6e-8.
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_fingerprint_follows_the_weights(saved: Path, tmp_path: Path) -> None:
    other = save_random_checkpoint(tmp_path / "other", seed=1)
    first, again = (load_checkpoint(str(saved), SST2).fingerprint for _ in range(2))
    assert first == again
    assert first != load_checkpoint(str(other), SST2).fingerprint


def test_roberta_positions_start_after_the_padding_token(tmp_path: Path) -> None:
    folder = save_random_checkpoint(tmp_path, model_type="roberta")
    # 130 positions, the first of which is pad_token_id + 1 = 1.
    assert load_checkpoint(str(folder), SST2).max_length == 129


def test_missing_folder() -> None:
    with pytest.raises(CheckpointError, match=r"'\./nowhere' does not exist") as error:
        load_checkpoint("./nowhere", SST2)
    assert "--model" in error.value.remedy


def test_hub_name_without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(NetworkError, match="no-such-org/no-such-model"):
        load_checkpoint("no-such-org/no-such-model", SST2)


@pytest.mark.parametrize(
    ("status", "headers", "kind", "said"),
    [
        (HTTPStatus.SERVICE_UNAVAILABLE, {}, NetworkError, "503"),
        (HTTPStatus.TOO_MANY_REQUESTS, {}, NetworkError, "429"),
        (HTTPStatus.FORBIDDEN, {"X-Error-Message": "no, you"}, CheckpointError, "no, you"),
        (HTTPStatus.UNAUTHORIZED, {"X-Error-Code": "GatedRepo"}, CheckpointError, "gated"),
        (HTTPStatus.UNAUTHORIZED, {"X-Error-Code": "RepoNotFound"}, CheckpointError, "Not Found"),
    ],
)
def test_what_the_hub_answers_is_told(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    status: HTTPStatus,
    headers: dict[str, str],
    kind: type[ToolchainError],
    said: str,
) -> None:
    with Hub(always=Answer(status, headers=headers)) as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.endpoint)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        with pytest.raises(kind, match=said) as caught:
            load_checkpoint("org/name", SST2)
    assert "'org/name'" in caught.value.message
    assert ("hf auth login" in caught.value.remedy) == (kind is CheckpointError)


def test_folder_without_weights(broken: Path) -> None:
    (broken / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no weights"):
        load_checkpoint(str(broken), SST2)


def test_folder_without_configuration(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        load_checkpoint(str(tmp_path), SST2)


def test_pickled_weights_are_not_opened(broken: Path) -> None:
    (broken / "model.safetensors").unlink()
    (broken / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(CheckpointError, match="pickle") as error:
        load_checkpoint(str(broken), SST2)
    assert "save_pretrained" in error.value.remedy


@pytest.mark.parametrize(
    ("keep", "said"), [(0, "0 bytes"), (5, "5 bytes"), (2000, "2,000 bytes"), (-1, "cannot load")]
)
def test_truncated_weights(broken: Path, keep: int, said: str) -> None:
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=said) as error:
        load_checkpoint(str(broken), SST2)
    assert "whole" in error.value.remedy


def test_missing_tensor_is_not_initialized_at_random(broken: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(broken / "model.safetensors")
    del tensors["classifier.weight"]
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lack 1 tensors, the first is classifier\.weight"):
        load_checkpoint(str(broken), SST2)


def test_another_kind_of_model_names_the_supported_ones(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, n_positions=32)
    GPT2ForSequenceClassification(config).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match="'gpt2'") as error:
        load_checkpoint(str(tmp_path), SST2)
    assert "distilbert" in error.value.remedy


def test_wrong_head(saved: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"BertForSequenceClassification.*'squad'"):
        load_checkpoint(str(saved), SQUAD)


def test_wrong_number_of_labels(tmp_path: Path) -> None:
    folder = save_random_checkpoint(tmp_path, labels=5)
    with pytest.raises(UnsupportedModelError, match="has 5 labels"):
        load_checkpoint(str(folder), SST2)


def name_labels(folder: Path, *names: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {str(index): name for index, name in enumerate(names)}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (("NEGATIVE", "POSITIVE"), (0, 1)),
        (("pos", "neg"), (1, 0)),
        (("LABEL_0", "LABEL_1"), None),
    ],
)
def test_label_names_tell_the_order_of_the_outputs(
    broken: Path, names: tuple[str, ...], order: tuple[int, ...] | None
) -> None:
    name_labels(broken, *names)
    assert load_checkpoint(str(broken), SST2).label_order == order


def test_other_labels_are_those_of_another_task(broken: Path) -> None:
    name_labels(broken, "entailment", "not_entailment")
    with pytest.raises(UnsupportedModelError, match="names its labels entailment, not_") as error:
        load_checkpoint(str(broken), SST2)
    assert "id2label" in error.value.remedy


def test_regression_needs_a_head_of_size_one(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"has 2 labels, .*'stsb' has 1 label"):
        load_checkpoint(str(saved), STSB)
    one = save_random_checkpoint(tmp_path, labels=1)
    assert load_checkpoint(str(one), STSB).label_order is None
    with pytest.raises(UnsupportedModelError, match=r"has 1 label, .*'sst2' has 2 labels"):
        load_checkpoint(str(one), SST2)


def test_label_names_can_be_read_without_weights(broken: Path) -> None:
    name_labels(broken, "ham", "spam")
    weights = broken / "model.safetensors"
    weights.write_bytes(bytes(weights.stat().st_size))
    assert label_names(str(broken)) == ("ham", "spam")


def test_labels_without_names_must_come_from_the_task(saved: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="does not name its labels") as error:
        label_names(str(saved))
    assert "labels: [...]" in error.value.remedy


def test_tokenizer_that_cannot_pad(broken: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(broken)
    with pytest.raises(CheckpointError, match="no padding token"):
        load_checkpoint(str(broken), SST2)


def test_missing_tokenizer_is_not_made_up(broken: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (broken / name).unlink()
    with pytest.raises(CheckpointError, match=r"cannot load|no vocabulary"):
        load_checkpoint(str(broken), SST2)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model_type": 3}'])
def test_damaged_configuration(broken: Path, content: str) -> None:
    (broken / "config.json").write_text(content)
    with pytest.raises((CheckpointError, UnsupportedModelError)):
        load_checkpoint(str(broken), SST2)


def test_configuration_of_another_size(broken: Path) -> None:
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, "hidden_size": 96}))
    with pytest.raises(CheckpointError):
        load_checkpoint(str(broken), SST2)
