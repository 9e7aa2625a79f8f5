"""The demo corpus and the model trained on it."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from calib_data.cache import CACHE_VARIABLE, CacheNotWritableError, cache_folder
from calib_data.demo import model
from calib_data.demo.corpus import dev_examples, train_examples
from calib_data.tasks import TextExample, get_task

# Of the texts and labels below; a change of the corpus is meant to be noticed here.
DEV_HASH = "13f095d48313c9ea"
TRAIN_HASH = "6da6fdd4dafa1bf8"


def fingerprint(examples: tuple[TextExample, ...]) -> str:
    lines = "".join(f"{row.id}\t{row.label}\t{row.texts[0]}\n" for row in examples)
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


def texts(examples: tuple[TextExample, ...]) -> list[str]:
    return [row.texts[0] for row in examples]


def labels(examples: tuple[TextExample, ...]) -> list[int]:
    return [row.label for row in examples]


def test_corpus_is_the_same_everywhere() -> None:
    assert fingerprint(dev_examples()) == DEV_HASH
    assert fingerprint(train_examples()) == TRAIN_HASH


def test_ids_are_unique_and_no_dev_text_is_trained_on() -> None:
    for examples in (dev_examples(), train_examples()):
        assert len({row.id for row in examples}) == len(examples)
    assert not set(texts(dev_examples())) & set(texts(train_examples()))


def test_labels_are_balanced() -> None:
    for examples in (dev_examples(), train_examples()):
        assert 0.4 < np.mean(labels(examples)) < 0.6


def test_both_buckets_are_used_and_nothing_is_cut(demo_model: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(demo_model)
    encoded = tokenizer(texts(dev_examples()))["input_ids"]
    short, long = get_task("demo").buckets
    lengths = np.array([len(ids) for ids in encoded])
    assert lengths.max() <= long
    assert 0.05 < np.mean(lengths > short) < 0.95
    assert not any(tokenizer.unk_token_id in ids for ids in encoded)


def test_checkpoint_has_the_promised_shape(demo_model: Path) -> None:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(demo_model)
    assert config.architectures == ["BertForSequenceClassification"]
    assert (config.num_hidden_layers, config.hidden_size) == (4, 256)
    assert (config.num_attention_heads, config.intermediate_size) == (4, 512)
    assert config.id2label == {0: "negative", 1: "positive"}
    assert (demo_model / "model.safetensors").is_file()


def accuracy_of(checkpoint: Path) -> float:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    network = AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()
    rows = sorted(dev_examples(), key=lambda row: len(row.texts[0]))
    hits = 0
    with torch.no_grad():
        for at in range(0, len(rows), 50):
            batch = tuple(rows[at : at + 50])
            logits = network(**tokenizer(texts(batch), padding=True, return_tensors="pt")).logits
            hits += int((logits.argmax(1) == torch.tensor(labels(batch))).sum())
    return hits / len(rows)


def test_model_is_good_and_needs_more_than_a_bag_of_words(demo_model: Path) -> None:
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    baseline = make_pipeline(CountVectorizer(), LogisticRegression(max_iter=1000))
    baseline.fit(texts(train_examples()), labels(train_examples()))
    bag_of_words = baseline.score(texts(dev_examples()), labels(dev_examples()))
    accuracy = accuracy_of(demo_model)
    assert 0.90 <= accuracy <= 0.99
    assert accuracy > bag_of_words


def test_second_call_neither_trains_nor_imports_torch(demo_model: Path) -> None:
    before = (demo_model / "model.safetensors").stat().st_mtime_ns
    code = (
        "import sys; from calib_data.demo.model import ensure_demo_model;"
        "print(ensure_demo_model()); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()) == demo_model
    assert done.stderr == ""
    assert (demo_model / "model.safetensors").stat().st_mtime_ns == before


def test_failed_training_leaves_nothing_that_looks_finished(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(folder: Path, *_: object) -> None:
        (folder / "config.json").write_text("{}")
        raise RuntimeError("interrupted")

    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setattr(model, "train_into", fail)
    with pytest.raises(RuntimeError, match="interrupted"):
        model.ensure_demo_model()
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_training_leaves_torch_as_it_was(tmp_path: Path) -> None:
    import torch

    from calib_data.demo import training
    from calib_data.progress import SilentProgress

    few = train_examples()[:64]
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "train_examples", lambda: few)
        # So few rows make every word rare, hence spelled out: they need more positions.
        recipe = training.Recipe(layers=1, hidden=64, positions=512)
        training.train_into(tmp_path, recipe, SilentProgress())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_cache_that_cannot_be_written_says_how_to_choose_another(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # A file in the way refuses even root, whom permissions would not stop.
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv(CACHE_VARIABLE, str(blocked / "cache"))
    with pytest.raises(CacheNotWritableError, match="cannot write to the cache folder") as caught:
        cache_folder()
    assert CACHE_VARIABLE in caught.value.remedy
