"""The model that takes texts gives the token ids and the answers that the build was judged by.

Its files run as they lie in the repository, loaded as Triton loads them.
"""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from checkpoints import make_tokenizer, save_random_checkpoint
from tokenizers import ByteLevelBPETokenizer, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from triton_standin import execute, parse_config, request, text_model

from calib_data.blocks import as_blocks
from calib_data.features import tokenize
from calib_data.progress import SilentProgress
from calib_data.sources import load_examples
from calib_data.tasks import QuestionExample, Split, TextExample, get_task
from deploy.artifacts import BuildFolder, read_results
from deploy.config import config_from_dict
from deploy.engine.ort import OrtSession
from deploy.engine.profiles import bucket_profiles
from deploy.engine.session import Precision
from deploy.errors import BuildFolderError
from deploy.evaluation.harness import EvaluationSet, run_rows
from deploy.evaluation.pipeline import read_tokenizer, settled_task
from deploy.evaluation.predictions import predict_from_outputs
from deploy.pipeline import build
from deploy.triton.config import triton_config_from_dict
from deploy.triton.pipeline import write_repository
from deploy.triton.server.bert_text import (
    Row,
    TextSpec,
    TextTokenizer,
    decode,
    make_batches,
    read_spec,
)

SHARED = Path(__file__).parents[2] / "../shared"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared")

BUCKETS, MAX_BATCH = (32, 64), 4

SENTENCES = (
    "",
    " ",
    "W1 w2, w3!",
    "a gorgeous , witty , seductive movie .",
    "Café naïve ß ﬁ ½ e\u0301 — “quotes” …",
    "東京タワー 한국어 עברית 🙂👩‍👩‍👧 \u200b\ufeff\x00\n\ttab",
    "[CLS] [SEP] [PAD] <s> </s> ##w1",
    "w5 " * 500,
    "x" * 20_000,
    "w1w2" * 5_000 + " w3",
)


def byte_level_tokenizer() -> PreTrainedTokenizerFast:
    """As RoBERTa's: bytes, two separators between a pair's texts, no token types."""
    core = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    core.train_from_iterator(SENTENCES, vocab_size=400, special_tokens=special)
    core._tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return PreTrainedTokenizerFast(
        tokenizer_object=core._tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        cls_token="<s>",
        sep_token="</s>",
        model_input_names=["input_ids", "attention_mask"],
    )


TOKENIZERS = {
    "WordPiece": make_tokenizer,
    "byte-level BPE": byte_level_tokenizer,
    "MiniLM's": lambda: AutoTokenizer.from_pretrained(SHARED / "checkpoints/minilm-sst2"),
}


@pytest.fixture(
    params=[pytest.param(name, marks=needs_shared if "'" in name else ()) for name in TOKENIZERS]
)
def tokenizer(request):
    return TOKENIZERS[request.param]()


def served(tokenizer, task, max_length, tmp_path) -> TextTokenizer:
    tokenizer.save_pretrained(tmp_path)
    spec = TextSpec(
        encoder="",
        inputs=("input_ids", "attention_mask", "token_type_ids"),
        outputs=(),
        buckets=(max_length,),
        max_batch=8,
        head=task.head.value,
        columns=task.columns,
        labels=(),
        output_order=(),
        max_length=max_length,
        doc_stride=task.doc_stride,
        pad_token_id=tokenizer.pad_token_id,
        segments="token_type_ids" in tokenizer.model_input_names,
        truncation_side=tokenizer.truncation_side,
    )
    return TextTokenizer(spec, tmp_path / "tokenizer.json")


def assert_same_rows(rows, features):
    assert [row.example for row in rows] == features.example_index.tolist()
    for row, ids, types in zip(rows, features.input_ids, features.token_type_ids, strict=True):
        assert row.input_ids.tolist() == ids.tolist()
        assert row.token_type_ids.tolist() == types.tolist()
    for row, offsets in zip(rows, features.offsets, strict=False):
        assert row.offsets.tolist() == offsets.tolist()


@pytest.mark.parametrize("side", ["right", "left"])
def test_sentences_get_the_token_ids_of_the_build(tokenizer, side, tmp_path):
    task = get_task("sst2")
    tokenizer.truncation_side = side
    examples = tuple(TextExample(str(i), (text,), 0) for i, text in enumerate(SENTENCES))
    found = served(tokenizer, task, 64, tmp_path)([example.texts for example in examples])
    assert found.refused == {}
    assert_same_rows(found.rows, tokenize(task, tokenizer, examples, 64))


def test_pairs_get_the_token_ids_of_the_build(tokenizer, tmp_path):
    task = get_task("mrpc")
    pairs = [(first, second) for first in SENTENCES for second in SENTENCES]
    examples = tuple(TextExample(str(i), pair, 0) for i, pair in enumerate(pairs))
    found = served(tokenizer, task, 48, tmp_path)(pairs)
    assert_same_rows(found.rows, tokenize(task, tokenizer, examples, 48))


@pytest.mark.parametrize("max_length", [32, 33])
def test_long_pairs_are_cut_as_the_plain_tokenizer_cuts_them(tokenizer, max_length, tmp_path):
    task = get_task("mrpc")
    texts = [f"{'unaffable w5 ' * count}w{count}" for count in (1, 90, 91, 170)]
    pairs = [(first, second) for first in texts for second in texts]
    examples = tuple(TextExample(str(i), pair, 0) for i, pair in enumerate(pairs))
    expected = tokenizer(pairs, truncation="longest_first", max_length=max_length)["input_ids"]
    found = served(tokenizer, task, max_length, tmp_path)(pairs)
    assert [row.input_ids.tolist() for row in found.rows] == expected
    assert_same_rows(found.rows, tokenize(task, tokenizer, examples, max_length))


def test_questions_get_the_windows_of_the_build(tokenizer, tmp_path):
    task = get_task("squad")
    questions = ["  w1?", "Who?"]
    pairs = [(question, context) for question in questions for context in SENTENCES]
    examples = tuple(QuestionExample(str(i), *pair, ("",), (0,)) for i, pair in enumerate(pairs))
    found = served(tokenizer, task, 48, tmp_path)(pairs)
    features = tokenize(task, tokenizer, examples, 48)
    assert len(features.input_ids) > len(examples)
    assert_same_rows(found.rows, features)


@needs_shared
@pytest.mark.shared
@pytest.mark.parametrize(("name", "length"), [("sst2", 128), ("mrpc", 128), ("squad", 384)])
def test_real_data_get_the_token_ids_of_the_build(name, length, tmp_path):
    task = get_task(name)
    tokenizer = AutoTokenizer.from_pretrained(SHARED / f"checkpoints/minilm-{name}")
    examples = load_examples(task, Split.DEV, SHARED / "data")[:300]
    texts = [
        (each.question, each.context) if isinstance(each, QuestionExample) else each.texts
        for each in examples
    ]
    found = served(tokenizer, task, length, tmp_path)(texts)
    assert_same_rows(found.rows, tokenize(task, tokenizer, examples, length))


def test_rows_of_one_bucket_go_together_in_batches_that_the_encoder_takes(tmp_path):
    tokenize_served = served(make_tokenizer(), get_task("sst2"), 64, tmp_path)
    rows = tokenize_served([("w1 " * count,) for count in (1, 50, 2, 30, 31, 60, 3, 4, 5)]).rows
    batches = make_batches(rows, BUCKETS, MAX_BATCH)
    assert [(batch.length, batch.rows) for batch in batches] == [
        (32, (0, 2, 3, 6)),
        (32, (7, 8)),
        (64, (1, 4, 5)),
    ]


# From here on whole repositories, of builds of random checkpoints.


def sentence(generator, longest):
    return " ".join(f"w{generator.randrange(90)}" for _ in range(generator.randrange(1, longest)))


def write_glue(folder, header, rows):
    folder.mkdir(parents=True)
    for name in ("train.tsv", "dev.tsv"):
        text = "\n".join("\t".join(map(str, row)) for row in (header, *rows))
        (folder / name).write_text(text + "\n", encoding="utf-8")


def write_squad(folder, generator):
    folder.mkdir(parents=True)
    paragraphs = []
    for index in range(12):
        context = sentence(generator, 150)
        answer = {"text": context.split()[0], "answer_start": 0}
        question = {"id": str(index), "question": sentence(generator, 6), "answers": [answer]}
        paragraphs.append({"context": context, "qas": [question]})
    content = json.dumps({"version": "1.1", "data": [{"title": "t", "paragraphs": paragraphs}]})
    for name in ("train-v1.1.json", "dev-v1.1.json"):
        (folder / name).write_text(content, encoding="utf-8")


def built_repository(task, tmp_path_factory, **checkpoint) -> tuple[Path, Path]:
    """A build and its repository, of a checkpoint with random weights."""
    root = tmp_path_factory.mktemp(task)
    generator = random.Random(0)
    if task == "squad":
        write_squad(root / "data/squad", generator)
    else:
        rows = [(i % 2, i, i, sentence(generator, 25), sentence(generator, 25)) for i in range(12)]
        header = ("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String")
        write_glue(root / "data/glue/MRPC", header, rows)
    save_random_checkpoint(root / "model", **checkpoint)
    options = {"model": root / "model", "task": task, "data_dir": root / "data"}
    options |= {"out": root / "out", "precision": "fp32", "engine": "none", "buckets": "32,64"}
    build(config_from_dict({**options, "max_batch": MAX_BATCH}))
    plain = {"out": root / "out", "repository": root / "models", "backend": "onnxruntime"}
    write_repository(triton_config_from_dict({**plain, "text": True}))
    return root / "out", root / "models"


@pytest.fixture(scope="module")
def mrpc(tmp_path_factory):
    return built_repository("mrpc", tmp_path_factory)


@pytest.fixture(scope="module")
def squad(tmp_path_factory):
    return built_repository("squad", tmp_path_factory, question_answering=True, seed=3)


def judged(out, data_dir):
    """Examples, and what the harness makes of them."""
    folder = BuildFolder(out)
    task, tokenizer = settled_task(read_results(folder)), read_tokenizer(folder)
    examples = load_examples(task, Split.DEV, data_dir)
    features = tokenize(task, tokenizer, examples, BUCKETS[-1])
    session = OrtSession(
        folder.onnx("fp32"), Precision.FP32, bucket_profiles(BUCKETS, MAX_BATCH), 0
    )
    data = EvaluationSet(task, examples, as_blocks(features), tokenizer.pad_token_id)
    outputs = run_rows(session, data, SilentProgress(), "")
    return task, examples, predict_from_outputs(task, examples, features, outputs.values)


def values(response, name):
    assert not response.has_error(), response.error().message()
    return [
        each.decode() if isinstance(each, bytes) else each
        for row in response.tensors[name].as_numpy()
        for each in row.tolist()
    ]


def test_outputs_are_those_that_the_configuration_declares(mrpc, squad):
    for (_, repository), name in ((mrpc, "mrpc"), (squad, "squad")):
        config = parse_config(repository / name)
        texts = {each.name: ["w1 w2", "w3"] for each in config.input}
        with text_model(repository, name) as (model, _):
            (response,) = execute(model, request(**texts))
        assert list(response.tensors) == [each.name for each in config.output]
        for each in config.output:
            assert response.tensors[each.name].as_numpy().shape == (2, *each.dims)


def test_pairs_get_the_labels_of_the_harness(mrpc):
    out, repository = mrpc
    task, examples, expected = judged(out, out.parent / "data")
    with text_model(repository, "mrpc") as (model, server):
        responses = execute(
            model,
            *(request(sentence1=e.texts[0], sentence2=e.texts[1]) for e in examples),
        )
    labels = [values(response, "label")[0] for response in responses]
    assert labels == [task.labels[index] for index in expected.class_ids]
    logits = expected.logits.astype(np.float64)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    # The harness pads a batch to the same bucket, but rows meet other neighbours.
    found = [values(response, "probabilities") for response in responses]
    np.testing.assert_allclose(found, shares, rtol=1e-5)
    scores = [values(response, "score")[0] for response in responses]
    np.testing.assert_allclose(scores, shares.max(axis=1), rtol=1e-5)
    # 12 requests of two buckets, in as few batches as the encoder allows.
    assert sum(batch for batch, _ in server.asked) == len(examples)
    assert {bucket for _, bucket in server.asked} == set(BUCKETS)
    assert len(server.asked) <= len(examples) // MAX_BATCH + 1


def test_questions_get_the_answers_of_the_harness(squad):
    out, repository = squad
    task, examples, expected = judged(out, out.parent / "data")
    with text_model(repository, "squad") as (model, server):
        questions, contexts = ([getattr(e, name) for e in examples] for name in task.columns)
        (batched,) = execute(model, request(question=questions, context=contexts))
        pairs = zip(questions, contexts, strict=True)
        single = execute(model, *(request(question=q, context=c) for q, c in pairs))
    assert values(batched, "answer") == list(expected.texts)
    assert [values(each, "answer")[0] for each in single] == list(expected.texts)
    windows = sum(batch for batch, _ in server.asked) // 2
    assert windows > len(examples), "no context was cut into windows"


def test_a_context_without_words_has_no_answer(squad):
    with text_model(squad[1], "squad") as (model, _):
        (response,) = execute(model, request(question="w1", context=""))
    assert (values(response, "answer"), values(response, "score")) == ([""], [0.0])


def test_a_bad_text_is_its_own_requests_error_only(squad):
    good = request(question="w1", context="w2 w3")
    with text_model(squad[1], "squad") as (model, _):
        (alone,) = execute(model, good)
        long, first, invalid, second = execute(
            model,
            request(question=["w1", "w1 " * 100], context=["w2", "w3"]),
            good,
            request(question=b"\xff", context="w2"),
            good,
        )
    assert "100 tokens" in long.error().message()
    assert "not UTF-8" in invalid.error().message()
    assert long.error().code == invalid.error().code == "invalid argument"
    for response in (first, second):
        assert values(response, "answer") == values(alone, "answer")


def test_a_failing_encoder_fails_those_that_it_was_asked_for(mrpc):
    short, long = (
        request(sentence1="w1", sentence2="w2"),
        request(sentence1="w " * 50, sentence2="w"),
    )
    with text_model(mrpc[1], "mrpc") as (model, server):
        server.failing_buckets.add(64)
        good, bad = execute(model, short, long)
        only_bad = execute(model, long)
    assert values(good, "label")
    for response in (bad, *only_bad):
        assert response.error().message() == "mrpc-fp32: out of memory"


def test_no_request_is_no_work(mrpc):
    with text_model(mrpc[1], "mrpc") as (model, server):
        assert execute(model) == []
    assert server.asked == []


def test_labels_come_in_the_order_that_the_checkpoint_has_them(tmp_path_factory, mrpc):
    out, repository = mrpc
    spec = json.loads((repository / "mrpc/1/text.json").read_text())
    task = replace(settled_task(read_results(BuildFolder(out))), output_order=(1, 0))
    reordered = replace(read_spec(repository / "mrpc/1/text.json"), output_order=task.output_order)
    row = Row(0, np.zeros(3, np.int64), np.zeros(3, np.int64), np.zeros((0, 2), np.int64))
    answer = decode(reordered, [("", "")], [row], [{"logits": np.array([3.0, 1.0])}])
    # Output 0 is the second label's.
    assert answer["label"][0, 0].decode() == spec["labels"][1]
    assert answer["probabilities"][0].argmax() == 1


@pytest.fixture
def with_text(squad, tmp_path):
    plain = {"out": squad[0], "repository": tmp_path / "models", "backend": "onnxruntime"}
    return triton_config_from_dict({**plain, "text": True})


def test_a_tokenizer_that_changed_since_the_build_is_refused(with_text):
    path = BuildFolder(with_text.out).tokenizer / "tokenizer.json"
    content = path.read_bytes()
    try:
        path.write_bytes(content.replace(b'"w1": ', b'"w1":  '))
        with pytest.raises(BuildFolderError, match=r"tokenizer\.json' is not the file"):
            write_repository(with_text)
    finally:
        path.write_bytes(content)
    assert not with_text.repository.exists()


def test_a_tokenizer_that_is_more_than_its_file_is_refused(with_text, monkeypatch):
    monkeypatch.setattr("deploy.triton.text.read_tokenizer", lambda folder: byte_level_tokenizer())
    with pytest.raises(BuildFolderError, match="gives other token ids"):
        write_repository(with_text)
    assert not with_text.repository.exists()
