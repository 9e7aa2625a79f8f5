"""Texts to token ids, and a model's outputs to answers, with numpy and tokenizers alone.

This file is copied beside `model.py` into a Triton repository. It gives the very token ids and
answers of `calib_data.features` and `deploy.evaluation`, by which the model was calibrated and
judged, without transformers, which a server need not have.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

QUESTION_ANSWERING = "question-answering"

# Of deploy.evaluation.squad.answers: starts and ends looked at, and tokens at most in an answer.
_N_BEST = 20
_MAX_ANSWER_LENGTH = 30

# Characters per token beyond which a text is shortened ahead of its pair; words have five or six.
_LONG_TEXT = 32

# Tokens of a word at most.
_LONG_WORD = 128

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class TextSpec:
    """What `text.json` says of the model that is fed.

    Attributes:
        encoder: Name of the model in the server that takes token ids.
        inputs: Token inputs that it reads, all int64.
        outputs: Outputs that are asked of it.
        buckets: Sequence lengths it takes, in tokens, ascending.
        max_batch: Rows at most in a request to it.
        head: "sequence-classification" or "question-answering".
        columns: The texts of an example, by name: one or two.
        labels: Class names, as the task numbers them; empty where there are no classes.
        output_order: Which output is each label's; empty where they are in the labels' order.
        max_length: Tokens at most in a row.
        doc_stride: Tokens by which windows of a context overlap.
        pad_token_id: What `input_ids` are padded with.
        segments: Whether the tokenizer tells a pair's texts apart in `token_type_ids`.
        truncation_side: Which end of a text is cut: "right" or "left".
    """

    encoder: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    buckets: tuple[int, ...]
    max_batch: int
    head: str
    columns: tuple[str, ...]
    labels: tuple[str, ...]
    output_order: tuple[int, ...]
    max_length: int
    doc_stride: int
    pad_token_id: int
    segments: bool
    truncation_side: str


@dataclass(frozen=True)
class Row:
    """A row of tokens, not padded; a question may own several (windows of its context).

    Attributes:
        example: Index of the example it belongs to.
        input_ids: int64 [tokens].
        token_type_ids: int64 [tokens].
        offsets: Character offsets in the context of each token, first and one past the last,
            int64 [tokens, 2]; (-1, -1) outside the context. Empty but for question answering.
    """

    example: int
    input_ids: NDArray[np.int64]
    token_type_ids: NDArray[np.int64]
    offsets: NDArray[np.int64]


@dataclass(frozen=True)
class Tokenized:
    """Examples as rows.

    Attributes:
        rows: In the order of the examples.
        refused: Why an example has no row, by its index.
    """

    rows: tuple[Row, ...]
    refused: Mapping[int, str]


@dataclass(frozen=True)
class Batch:
    """Rows of one bucket, which are sent to the encoder together.

    Attributes:
        rows: Indexes of the rows.
        length: Tokens to which they are padded.
    """

    rows: tuple[int, ...]
    length: int


def read_spec(path: Path) -> TextSpec:
    """Read `text.json`."""
    plain: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()
    }
    return TextSpec(**values)


class TextTokenizer:
    """A tokenizer that cuts, pairs and windows as the task asks for."""

    def __init__(self, spec: TextSpec, tokenizer_json: Path) -> None:
        """Read a tokenizer.

        Args:
            spec: What it tokenizes for.
            tokenizer_json: File of the tokenizers library.
        """
        self._spec = spec
        self._plain = Tokenizer.from_file(str(tokenizer_json))
        self._plain.no_padding()
        self._plain.no_truncation()
        self._special = self._plain.num_special_tokens_to_add(len(spec.columns) == 2)
        # Below three overlaps windows would hardly advance, or not at all.
        self._stride = min(spec.doc_stride, spec.max_length // 3)
        windows = spec.head == QUESTION_ANSWERING
        self._cutting = _truncating(
            self._plain,
            spec.max_length,
            stride=self._stride if windows else 0,
            strategy="only_second" if windows else "longest_first",
            direction=spec.truncation_side,
        )

    def __call__(self, examples: Sequence[Sequence[str]]) -> Tokenized:
        """Turn examples into rows.

        Args:
            examples: The texts of each, in the order of `TextSpec.columns`.
        """
        if self._spec.head == QUESTION_ANSWERING:
            return self._questions(examples)
        texts = [tuple(each) for each in examples]
        if len(self._spec.columns) == 2:
            texts = [self._shortened(first, second) for first, second in texts]
        inputs = texts if len(self._spec.columns) == 2 else [text for (text,) in texts]
        encodings = self._cutting.encode_batch(inputs)
        rows = (self._row(index, each) for index, each in enumerate(encodings))
        return Tokenized(tuple(rows), {})

    def _questions(self, examples: Sequence[Sequence[str]]) -> Tokenized:
        # The data set's questions have leading spaces by mistake, which training dropped.
        questions = [question.lstrip() for question, _ in examples]
        room = self._spec.max_length - self._special - self._stride
        alone = self._plain.encode_batch(questions, add_special_tokens=False)
        refused = {
            index: f"the question has {len(tokens)} tokens; beside its context at most {room - 1} "
            f"fit into {self._spec.max_length}"
            for index, tokens in enumerate(alone)
            if len(tokens) >= room
        }
        kept = [index for index in range(len(examples)) if index not in refused]
        encodings = self._cutting.encode_batch([(questions[i], examples[i][1]) for i in kept])
        return Tokenized(
            tuple(
                self._row(index, window)
                for index, encoding in zip(kept, encodings, strict=True)
                for window in (encoding, *encoding.overflowing)
            ),
            refused,
        )

    def _shortened(self, first: str, second: str) -> tuple[str, str]:
        """Drop the far end of very long texts of a pair, which truncation drops anyway.

        The library combines all that it cuts off one text of a pair with all that it cuts off the
        other: two texts of 100,000 characters take it over half a minute.
        """
        spec = self._spec
        long = max(len(first), len(second)) > _LONG_TEXT * spec.max_length
        if spec.truncation_side != "right" or not long:
            return first, second
        one, other = self._plain.encode_batch([first, second], add_special_tokens=False)
        kept = _kept(len(one), len(other), spec.max_length)
        return _cut(first, one, kept[0]), _cut(second, other, kept[1])

    def _row(self, example: int, encoding: Encoding) -> Row:
        ids = np.array(encoding.ids, dtype=np.int64)
        types = np.array(encoding.type_ids, dtype=np.int64)
        offsets = np.empty((0, 2), dtype=np.int64)
        if self._spec.head == QUESTION_ANSWERING:
            offsets = np.array(encoding.offsets, dtype=np.int64)
            offsets[[part != 1 for part in encoding.sequence_ids]] = -1
        return Row(example, ids, types if self._spec.segments else np.zeros_like(ids), offsets)


def make_batches(rows: Sequence[Row], buckets: Sequence[int], max_batch: int) -> list[Batch]:
    """Put the rows of each bucket together.

    Args:
        rows: At most `buckets[-1]` tokens each.
        buckets: Sequence lengths in tokens, ascending.
        max_batch: Rows at most in a batch.
    """
    by_bucket: dict[int, list[int]] = {}
    for index, row in enumerate(rows):
        bucket = next(each for each in buckets if len(row.input_ids) <= each)
        by_bucket.setdefault(bucket, []).append(index)
    return [
        Batch(tuple(chosen[start : start + max_batch]), bucket)
        for bucket, chosen in sorted(by_bucket.items())
        for start in range(0, len(chosen), max_batch)
    ]


def collate(spec: TextSpec, rows: Sequence[Row], batch: Batch) -> Arrays:
    """Pad a batch's rows on the right to its bucket.

    Returns:
        The inputs that the encoder reads, int64 [batch, length].
    """
    shape = (len(batch.rows), batch.length)
    arrays: Arrays = {
        "input_ids": np.full(shape, spec.pad_token_id, dtype=np.int64),
        "attention_mask": np.zeros(shape, dtype=np.int64),
        "token_type_ids": np.zeros(shape, dtype=np.int64),
    }
    for line, index in enumerate(batch.rows):
        row = rows[index]
        tokens = len(row.input_ids)
        arrays["input_ids"][line, :tokens] = row.input_ids
        arrays["attention_mask"][line, :tokens] = 1
        arrays["token_type_ids"][line, :tokens] = row.token_type_ids
    return {name: arrays[name] for name in spec.inputs}


def decode(
    spec: TextSpec,
    examples: Sequence[Sequence[str]],
    rows: Sequence[Row],
    outputs: Sequence[Mapping[str, NDArray[Any]]],
) -> Arrays:
    """Turn the encoder's outputs into what a client asked for.

    Args:
        spec: What was asked.
        examples: Their texts; each has a row, or else its answer means nothing.
        rows: What was run.
        outputs: Of each row: `logits` [classes], or `start_logits` and `end_logits` [length].

    Returns:
        By output name, [examples, ...]; a text is UTF-8 bytes, in an object array. Classes:
        `label`, `score` (the label's probability) and `probabilities` in the order of the labels.
        A number: `value`. Questions: `answer`, and as its `score` the sum of its two logits; an
        empty answer where no span of the context is allowed.
    """
    count = len(examples)
    if spec.head == QUESTION_ANSWERING:
        contexts = [example[1] for example in examples]
        return _answers(contexts, rows, outputs)
    logits = np.zeros((count, max(1, len(spec.labels))), dtype=np.float32)
    for row, output in zip(rows, outputs, strict=True):
        logits[row.example] = output["logits"]
    if not spec.labels:
        return {"value": logits}
    ordered = logits[:, list(spec.output_order)] if spec.output_order else logits
    powers = np.exp(ordered - ordered.max(axis=1, keepdims=True))
    probabilities = powers / powers.sum(axis=1, keepdims=True)
    chosen = ordered.argmax(axis=1)
    return {
        "label": _texts([spec.labels[index] for index in chosen]),
        "score": np.take_along_axis(probabilities, chosen[:, None], axis=1),
        "probabilities": probabilities,
    }


def _answers(
    contexts: Sequence[str], rows: Sequence[Row], outputs: Sequence[Mapping[str, NDArray[Any]]]
) -> Arrays:
    """The best span of each context over all its windows; see `deploy.evaluation.squad.answers`."""
    best_text = [""] * len(contexts)
    best_score = np.zeros((len(contexts), 1), dtype=np.float32)
    answered = set()
    for row, output in zip(rows, outputs, strict=True):
        tokens = len(row.input_ids)
        start = output["start_logits"][:tokens].astype(np.float32)
        end = output["end_logits"][:tokens].astype(np.float32)
        starts = np.argsort(start)[-1 : -_N_BEST - 1 : -1]
        ends = np.argsort(end)[-1 : -_N_BEST - 1 : -1]
        starts = starts[row.offsets[starts, 0] >= 0]
        ends = ends[row.offsets[ends, 0] >= 0]
        span = ends[None, :] - starts[:, None] + 1
        allowed = (span >= 1) & (span <= _MAX_ANSWER_LENGTH)
        if not allowed.any():
            continue
        scores = np.where(allowed, start[starts][:, None] + end[ends][None, :], -np.inf)
        i, j = np.unravel_index(np.argmax(scores), scores.shape)
        if row.example not in answered or scores[i, j] > best_score[row.example, 0]:
            answered.add(row.example)
            best_score[row.example, 0] = scores[i, j]
            first, last = int(row.offsets[starts[i], 0]), int(row.offsets[ends[j], 1])
            best_text[row.example] = contexts[row.example][first:last]
    return {"answer": _texts(best_text), "score": best_score}


def _texts(texts: Sequence[str]) -> NDArray[Any]:
    encoded = np.empty((len(texts), 1), dtype=object)
    encoded[:, 0] = [text.encode("utf-8") for text in texts]
    return encoded


def _kept(first: int, second: int, max_length: int) -> tuple[int, int]:
    """Tokens of a pair's texts that are more than enough; see `calib_data.features`."""
    enough = max_length + _LONG_WORD
    if first > second:
        return min(first, 3 * enough), second if second <= 2 * enough else enough
    return first if first <= 2 * enough else enough, min(second, 3 * enough)


def _cut(text: str, encoding: Encoding, count: int) -> str:
    return text[: encoding.offsets[count - 1][1]] if count < len(encoding) else text


def _truncating(tokenizer: Tokenizer, max_length: int, **options: Any) -> Tokenizer:
    """A copy that cuts at `max_length`: how a tokenizer cuts is a state of it."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.enable_truncation(max_length, **options)
    return copy
