import copy
from dataclasses import replace

import numpy as np
import pytest
from checkpoints import make_tokenizer

from calib_data import blocks as blocks_module
from calib_data import feature_cache
from calib_data.blocks import as_blocks, join_blocks, tokenize_blocks
from calib_data.cache import CACHE_VARIABLE
from calib_data.errors import TokenizationError
from calib_data.feature_cache import FeatureCache
from calib_data.features import tokenize
from calib_data.tasks import QuestionExample, TextExample, get_task

SST2, SQUAD = get_task("sst2"), get_task("squad")
TEXTS = tuple(TextExample(str(i), (f"w{i} w{i + 1} " * (i % 7 + 1),), 0) for i in range(40))
QUESTIONS = tuple(
    QuestionExample(f"q{i}", f"w{i}", " ".join(f"w{i + j}" for j in range(20 + i)), ("w",), (0,))
    for i in range(12)
)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


@pytest.fixture
def no_tokenizer(monkeypatch):
    """From here on, rows come from the cache or not at all."""

    def refuse(*_):
        raise AssertionError("tokenized again")

    return lambda: monkeypatch.setattr(feature_cache, "tokenize", refuse)


def same(left, right):
    for name in ("input_ids", "token_type_ids", "offsets"):
        rows, others = getattr(left, name), getattr(right, name)
        assert len(rows) == len(others)
        for row, other in zip(rows, others, strict=True):
            assert row.dtype == other.dtype
            np.testing.assert_array_equal(row, other)
    np.testing.assert_array_equal(left.example_index, right.example_index)


@pytest.mark.parametrize(("task", "examples"), [(SST2, TEXTS), (SQUAD, QUESTIONS)])
def test_the_cache_gives_what_the_tokenizer_gave(task, examples, no_tokenizer):
    tokenizer = make_tokenizer()
    made = FeatureCache(task, tokenizer, 24).rows(examples)
    same(made, tokenize(task, tokenizer, examples, 24))
    no_tokenizer()
    same(FeatureCache(task, make_tokenizer(), 24).rows(examples), made)


def lower(tokenizer):
    from tokenizers import normalizers

    changed = copy.deepcopy(tokenizer)
    changed.backend_tokenizer.normalizer = normalizers.Lowercase()
    return changed


@pytest.mark.parametrize(
    "change",
    [
        lambda task, tokenizer, length, examples: (task, tokenizer, 16, examples),
        lambda task, tokenizer, length, examples: (task, lower(tokenizer), length, examples),
        lambda task, tokenizer, length, examples: (task, tokenizer, length, examples[:-1]),
        lambda task, tokenizer, length, examples: (
            replace(task, doc_stride=2),
            tokenizer,
            length,
            examples,
        ),
        lambda task, tokenizer, length, examples: (
            task,
            tokenizer,
            length,
            # The same characters, one of them moved from the question to the context.
            (replace(examples[0], question="w", context="0" + examples[0].context), *examples[1:]),
        ),
    ],
    ids=["length", "tokenizer", "fewer", "stride", "moved"],
)
def test_whatever_makes_other_rows_is_another_entry(change, folder):
    setting = (SQUAD, make_tokenizer(), 24, QUESTIONS)
    for task, tokenizer, length, examples in (setting, change(*setting)):
        rows = FeatureCache(task, tokenizer, length).rows(examples)
        same(rows, tokenize(task, tokenizer, examples, length))
    assert len(list(folder.iterdir())) == 2


def test_an_entry_does_not_depend_on_what_the_tokenizer_did_before(no_tokenizer):
    tokenizer = make_tokenizer()
    FeatureCache(SST2, tokenizer, 24).rows(TEXTS)
    tokenizer("w1 w2 w3", truncation=True, max_length=3, padding="max_length")
    no_tokenizer()
    FeatureCache(SST2, tokenizer, 24).rows(TEXTS)


@pytest.mark.parametrize("place", ["empty", "half", "garbage", "flipped", "other"])
def test_a_damaged_file_is_made_again(place, folder, no_tokenizer):
    cache = FeatureCache(SQUAD, make_tokenizer(), 24)
    made = cache.rows(QUESTIONS)
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    if place == "other":  # a good file, of other rows
        FeatureCache(SQUAD, make_tokenizer(), 24).rows(QUESTIONS[:3])
        (other,) = set(folder.iterdir()) - {file}
        damaged = other.read_bytes()
    else:
        middle = len(whole) // 2
        damaged = {
            "empty": b"",
            "half": whole[:middle],
            "garbage": b"garbage",
            "flipped": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
        }[place]
    file.write_bytes(damaged)
    same(cache.rows(QUESTIONS), made)
    no_tokenizer()
    same(cache.rows(QUESTIONS), made)


def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file"))
    rows = FeatureCache(SST2, make_tokenizer(), 24).rows(TEXTS)
    same(rows, tokenize(SST2, make_tokenizer(), TEXTS, 24))


@pytest.mark.parametrize(("task", "examples"), [(SST2, TEXTS), (SQUAD, QUESTIONS)])
def test_blocks_joined_are_the_rows_of_all(task, examples, monkeypatch):
    monkeypatch.setattr(blocks_module, "_BLOCK", 5)
    tokenizer = make_tokenizer()
    blocks = tokenize_blocks(task, tokenizer, examples, 24)
    assert len(blocks) == -(-len(examples) // 5)
    whole = tokenize(task, tokenizer, examples, 24)  # while those are in the making
    same(join_blocks(blocks), whole)
    assert join_blocks(as_blocks(whole)) is whole


def test_what_cannot_be_tokenized_is_told_to_who_asks_for_it(monkeypatch):
    monkeypatch.setattr(blocks_module, "_BLOCK", 5)
    long = replace(QUESTIONS[7], question="w1 " * 40)
    blocks = tokenize_blocks(SQUAD, make_tokenizer(), (*QUESTIONS[:7], long), 24)
    blocks[0].result()
    with pytest.raises(TokenizationError, match="'q7'"):
        join_blocks(blocks)
