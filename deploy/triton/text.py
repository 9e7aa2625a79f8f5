"""The model that takes texts: files of its own, and what tells them about the encoder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from calib_data.features import tokenize
from calib_data.tasks import Examples, Head, QuestionExample, Task, TextExample
from deploy.artifacts import BuildFolder, check_listed
from deploy.errors import BuildFolderError
from deploy.evaluation.pipeline import read_tokenizer
from deploy.triton.encoder import Encoder, TensorSpec
from deploy.triton.server.bert_text import TextSpec, TextTokenizer

_TOKENIZER = "tokenizer.json"
_SERVER = Path(__file__).parent / "server"

# What a tokenizer may treat in its own way: nothing, case, accents, other scripts, length.
_PROBES = (
    "",
    "  A plain sentence, with Punctuation!",
    "Café naïve ß ﬁ 東京 🙂 \u200b\n\ttabs",
    "many words " * 1000,
)


@dataclass(frozen=True)
class TextModel:
    """A model that takes texts.

    Attributes:
        spec: What it knows of encoder and task.
        inputs: A text each.
        outputs: See `deploy.triton.server.bert_text.decode`.
        files: Content of each file, by name within the version's folder.
    """

    spec: TextSpec
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    files: Mapping[str, bytes]


def make_text_model(
    folder: BuildFolder,
    manifest: Mapping[str, Any],
    task: Task,
    encoder_name: str,
    encoder: Encoder,
) -> TextModel:
    """Collect what the server needs to turn texts into answers.

    Args:
        folder: The build, which keeps the tokenizer.
        manifest: Its manifest.
        task: Its task, labels settled.
        encoder_name: Name in the server of the model that takes token ids.
        encoder: That model.

    Raises:
        BuildFolderError: The build's tokenizer is damaged, is not one of the tokenizers library,
            or gives the server other token ids than the build.
    """
    tokenizer = read_tokenizer(folder)
    path = folder.tokenizer / _TOKENIZER
    if not tokenizer.is_fast or not path.is_file():
        raise BuildFolderError(
            f"'{folder.tokenizer}' has no {_TOKENIZER}, which the server reads",
            "leave --text out, or build again from a checkpoint with a fast tokenizer",
        )
    check_listed(folder, manifest, path)
    spec = TextSpec(
        encoder=encoder_name,
        inputs=tuple(each.name for each in encoder.inputs),
        outputs=tuple(each.name for each in encoder.outputs),
        buckets=encoder.buckets,
        max_batch=encoder.max_batch,
        head=task.head.value,
        columns=task.columns,
        labels=task.labels,
        output_order=task.output_order,
        max_length=min(task.max_length, encoder.buckets[-1]),
        doc_stride=task.doc_stride,
        pad_token_id=tokenizer.pad_token_id,
        segments="token_type_ids" in tokenizer.model_input_names,
        truncation_side=tokenizer.truncation_side,
    )
    _check_token_ids(spec, task, tokenizer, path)
    return TextModel(
        spec=spec,
        inputs=tuple(TensorSpec(column, "TYPE_STRING", (1,)) for column in task.columns),
        outputs=_outputs(task),
        files={
            "text.json": (json.dumps(asdict(spec), indent=2) + "\n").encode(),
            _TOKENIZER: path.read_bytes(),
            **{name: (_SERVER / name).read_bytes() for name in ("bert_text.py", "model.py")},
        },
    )


def _outputs(task: Task) -> tuple[TensorSpec, ...]:
    score = TensorSpec("score", "TYPE_FP32", (1,))
    if task.head is Head.QUESTION_ANSWERING:
        return TensorSpec("answer", "TYPE_STRING", (1,)), score
    if task.regression:
        return (TensorSpec("value", "TYPE_FP32", (1,)),)
    probabilities = TensorSpec("probabilities", "TYPE_FP32", (len(task.labels),))
    return TensorSpec("label", "TYPE_STRING", (1,)), score, probabilities


def _check_token_ids(spec: TextSpec, task: Task, tokenizer: Any, path: Path) -> None:
    """Hold the server's tokenizer against the one that the model was judged with."""
    texts = [_texts(task, text) for text in _PROBES]
    served = TextTokenizer(spec, path)(texts).rows
    judged = tokenize(task, tokenizer, _examples(task, texts), spec.max_length)
    same = len(served) == len(judged.input_ids) and all(
        np.array_equal(row.input_ids, ids) and np.array_equal(row.token_type_ids, types)
        for row, ids, types in zip(served, judged.input_ids, judged.token_type_ids, strict=True)
    )
    if not same:
        raise BuildFolderError(
            f"'{path}' alone gives other token ids than the build's tokenizer does",
            "leave --text out, and send token ids that transformers made",
        )


def _texts(task: Task, text: str) -> tuple[str, ...]:
    # A question has to leave room for its context.
    first = "Who?" if task.head is Head.QUESTION_ANSWERING else text
    return (first, text) if len(task.columns) == 2 else (text,)


def _examples(task: Task, texts: Sequence[tuple[str, ...]]) -> Examples:
    if task.head is Head.QUESTION_ANSWERING:
        return tuple(
            QuestionExample(str(index), question, context, ("",), (0,))
            for index, (question, context) in enumerate(texts)
        )
    return tuple(TextExample(str(index), each, 0) for index, each in enumerate(texts))
