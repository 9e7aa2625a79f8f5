"""Examples as token ids, the form that a model is fed and a calibrator reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from calib_data.errors import TokenizationError
from calib_data.progress import Progress, SilentProgress
from calib_data.tasks import Examples, Head, QuestionExample, Task, TextExample

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerBase

# Examples per tokenizer call: enough to keep its threads busy, few enough for progress to move.
_CHUNK = 1024

# Characters per token beyond which a text is shortened ahead of its pair; words have five or six.
_LONG_TEXT = 32

# Tokens of a word at most: WordPiece takes what has over 100 characters for one unknown token.
_LONG_WORD = 128


@dataclass(frozen=True)
class Features:
    """Tokenized rows, not padded; a SQuAD question may own several rows (windows).

    Attributes:
        input_ids: Token ids of each row, int64 [tokens].
        token_type_ids: Segment ids of each row, int64 [tokens]; zeros where the tokenizer has none.
        example_index: The example each row belongs to, int64 [rows], ascending.
        offsets: SQuAD only: character offsets in the context of each row's tokens, first and one
            past the last, int32 [tokens, 2]; (-1, -1) outside the context. Otherwise empty.
    """

    input_ids: tuple[NDArray[np.int64], ...]
    token_type_ids: tuple[NDArray[np.int64], ...]
    example_index: NDArray[np.int64]
    offsets: tuple[NDArray[np.int32], ...]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens in each row, int64 [rows]."""
        return np.array([len(ids) for ids in self.input_ids], dtype=np.int64)


def tokenize(
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    examples: Examples,
    max_length: int,
    progress: Progress | None = None,
) -> Features:
    """Turn examples into token ids, as Hugging Face's reference scripts do.

    Texts of a classification task are cut at `max_length`, the longer one of a pair first
    (run_glue.py). A SQuAD context that does not fit beside its question is cut into overlapping
    windows, and questions lose leading spaces, which the data set has by mistake and which could
    push the question over the limit (run_qa.py).

    Args:
        task: The task the examples belong to.
        tokenizer: The model's tokenizer; for SQuAD a fast one, which knows character offsets.
        examples: What to tokenize.
        max_length: Tokens at most in a row: the task's limit or what the model has positions for,
            whichever is less. Below three overlaps of `task.doc_stride` windows overlap by a third
            of it instead, so that they still advance.
        progress: Told about each chunk.

    Returns:
        At least one row for each example, in their order.

    Raises:
        TokenizationError: The tokenizer has no offsets or fails, or a question fills the window
            alone.
    """
    track = (progress or SilentProgress()).track
    chunks = [examples[start : start + _CHUNK] for start in range(0, len(examples), _CHUNK)]
    input_ids: list[NDArray[np.int64]] = []
    token_type_ids: list[NDArray[np.int64]] = []
    owners: list[NDArray[np.int64]] = []
    offsets: list[NDArray[np.int32]] = []
    first = 0
    for chunk in track(chunks, "Tokenizing", len(chunks)):
        if task.head is Head.QUESTION_ANSWERING:
            questions = cast("tuple[QuestionExample, ...]", chunk)
            with _explained():
                encoding = _encode_questions(task, tokenizer, questions, max_length)
            owner = np.array(encoding["overflow_to_sample_mapping"], dtype=np.int64)
            spans = _context_offsets(encoding)
            _check_ends(tokenizer, questions, owner, spans)
            offsets += spans
        else:
            texts = cast("tuple[TextExample, ...]", chunk)
            with _explained():
                encoding = _encode_texts(tokenizer, texts, max_length)
            owner = np.arange(len(chunk), dtype=np.int64)
        ids = [np.array(row, dtype=np.int64) for row in encoding["input_ids"]]
        types: Sequence[Sequence[int]] | None = encoding.get("token_type_ids")
        input_ids += ids
        token_type_ids += (
            [np.zeros_like(row) for row in ids]
            if types is None
            else [np.array(row, dtype=np.int64) for row in types]
        )
        owners.append(owner + first)
        first += len(chunk)
    return Features(
        tuple(input_ids),
        tuple(token_type_ids),
        np.concatenate(owners) if owners else np.zeros(0, dtype=np.int64),
        tuple(offsets),
    )


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if type(error) is not Exception:  # what the tokenizers library raises, and nobody else
            raise
        raise TokenizationError(
            f"the model's tokenizer fails: {error}",
            "its tokenizer.json may be damaged: save the tokenizer again with save_pretrained",
        ) from error


def _encode_texts(
    tokenizer: PreTrainedTokenizerBase, examples: Sequence[TextExample], max_length: int
) -> BatchEncoding:
    columns = [list(column) for column in zip(*(e.texts for e in examples), strict=True)]
    if len(columns) == 2 and tokenizer.is_fast and tokenizer.truncation_side == "right":
        pairs = zip(*columns, strict=True)
        shortened = _shortened(tokenizer, pairs, max_length)
        columns = [list(column) for column in zip(*shortened, strict=True)]
    encoding: BatchEncoding = tokenizer(*columns, truncation="longest_first", max_length=max_length)
    return encoding


def _shortened(
    tokenizer: PreTrainedTokenizerBase, pairs: Iterable[tuple[str, str]], max_length: int
) -> Iterator[list[str]]:
    """Drop the far end of very long texts of pairs, which truncation drops anyway.

    The tokenizer combines all that it cuts off one text of a pair with all that it cuts off the
    other: two texts of 100,000 characters take it over half a minute.
    """
    for pair in pairs:
        if max(map(len, pair)) <= _LONG_TEXT * max_length:
            yield list(pair)
            continue
        tokens = tokenizer(
            list(pair), add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )["offset_mapping"]
        lengths = [len(offsets) for offsets in tokens]
        kept = _kept(lengths[0], lengths[1], max_length)
        yield [
            text[: offsets[count - 1][1]] if count < len(offsets) else text
            for text, offsets, count in zip(pair, tokens, kept, strict=True)
        ]


def _kept(first: int, second: int, max_length: int) -> tuple[int, int]:
    """Tokens of a pair's texts that are more than enough, of the longer text still the more.

    Where both texts are cut and the room is odd, the longer one has a token more, the second of
    equal ones. So what is cut here must leave them far apart: where a text ends within a word, that
    word's tokens become others.
    """
    enough = max_length + _LONG_WORD
    if first > second:
        return min(first, 3 * enough), second if second <= 2 * enough else enough
    return first if first <= 2 * enough else enough, min(second, 3 * enough)


def _encode_questions(
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[QuestionExample],
    max_length: int,
) -> BatchEncoding:
    if not tokenizer.is_fast:
        raise TokenizationError(
            f"{type(tokenizer).__name__} does not tell where in the text a token lies",
            f"use a model with a fast tokenizer (tokenizer.json) for --task {task.name}",
        )
    questions = [example.question.lstrip() for example in examples]
    stride = min(task.doc_stride, max_length // 3)
    # The tokenizer aborts the process' thread where a window would not advance; look first.
    room = max_length - tokenizer.num_special_tokens_to_add(pair=True) - stride
    alone = tokenizer(questions, add_special_tokens=False)["input_ids"]
    for example, tokens in zip(examples, alone, strict=True):
        if len(tokens) >= room:
            raise TokenizationError(
                f"question '{example.id}' has {len(tokens)} tokens; beside its context at most "
                f"{room - 1} fit into {max_length}",
                "use a model with more positions, or shorten or drop that question in the data",
            )
    encoding: BatchEncoding = tokenizer(
        questions,
        [example.context for example in examples],
        truncation="only_second",
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    return encoding


def _context_offsets(encoding: BatchEncoding) -> list[NDArray[np.int32]]:
    rows = []
    for index, pairs in enumerate(encoding["offset_mapping"]):
        offsets = np.array(pairs, dtype=np.int32)
        in_context = np.array([part == 1 for part in encoding.sequence_ids(index)])
        offsets[~in_context] = -1
        rows.append(offsets)
    return rows


def _check_ends(
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[QuestionExample],
    owner: NDArray[np.int64],
    offsets: Sequence[NDArray[np.int32]],
) -> None:
    """Refuse windows that end before their context does: an answer there could never be found.

    tokenizers 0.23.1 and 0.23.2 stop reading a text once a window is full
    (https://github.com/huggingface/tokenizers/issues/2091).
    """
    ends = np.zeros(len(examples), dtype=np.int64)
    np.maximum.at(ends, owner, [int(span[:, 1].max(initial=0)) for span in offsets])
    for example, end in zip(examples, ends, strict=True):
        if not example.context[end:].strip():
            continue
        # Tokens need not reach the end: control characters become none, and composed characters
        # count as their first.
        whole = tokenizer(example.context, add_special_tokens=False, return_offsets_mapping=True)[
            "offset_mapping"
        ]
        left_out = max((last for _, last in whole), default=0) - end
        if left_out > 0:
            raise TokenizationError(
                f"the tokenizer leaves out the last {left_out} characters of the context of "
                f"question '{example.id}', as tokenizers 0.23.1 and 0.23.2 do",
                "pip install 'tokenizers>=0.23.3'",
            )
