"""The examples that a precision answers otherwise than FP32, for a person to look at.

`examples.json` holds up to 200 of each precision; results.json holds the first 20 of those under
`changed_examples`, in the same shape, so that a report needs no other file:

    {"schema_version": 1, "changed_examples": {"fp8": {
        "backend": "onnxruntime",            what executed it, as in accuracy.<precision>.backend
        "total": 9,                          all that changed, as in compare.<precision>.changed
        "examples": [{
            "id": "217",                     the data set's own, or the row
            "texts": {"sentence": "..."},    by column; SQuAD has question and context
            "expected": "positive",          class name; number (STS-B); list of answers (SQuAD)
            "fp32": "positive",              FP32's answer: class name, number or text
            "answer": "negative",            this precision's
            "outcome": "lost",               lost, gained or neither; see `Outcome`
            "fp32_margin": 0.31,             classification only: logit of the class that was
            "margin": 0.02                   chosen minus the next largest
        }, ...]}}}

Lost examples come first, then gained ones, then the rest, each in the order of the data. A text is
at most 400 characters, an ellipsis where it was cut; a SQuAD context is cut around its answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from calib_data.tasks import Examples, QuestionExample, Task, TextExample
from deploy.evaluation import squad
from deploy.evaluation.compare import same_predictions
from deploy.evaluation.predictions import (
    AnswerPredictions,
    ClassPredictions,
    Predictions,
    labels_of,
)

KEPT = 200
"""Changed examples of a precision that `examples.json` holds."""

SHOWN = 20
"""Changed examples of a precision that results.json holds."""

_TEXT_LENGTH = 400
_ELLIPSIS = "…"


class Outcome(str, Enum):
    """What a changed example means for the score.

    Lost: FP32 was right, or closer: the higher word F1 (SQuAD), the smaller distance (regression).
    Gained: the other way round. Neither: both wrong, or equally close.
    """

    LOST = "lost"
    GAINED = "gained"
    NEITHER = "neither"


@dataclass(frozen=True)
class ChangedExample:
    """An example on which a precision and FP32 differ; see the module for the fields.

    Attributes:
        id: The example's.
        texts: Its texts by column, cut.
        expected: Its label.
        fp32: FP32's answer.
        answer: The precision's.
        outcome: What that means for the score.
        fp32_margin: By how much FP32 chose its class; None where there are no classes.
        margin: By how much the precision chose its own.
    """

    id: str
    texts: dict[str, str]
    expected: str | float | tuple[str, ...]
    fp32: str | float
    answer: str | float
    outcome: Outcome
    fp32_margin: float | None = None
    margin: float | None = None


@dataclass(frozen=True)
class ChangedExamples:
    """What a precision changes.

    Attributes:
        total: Number of changed examples.
        examples: The first of them, at most `KEPT`.
    """

    total: int
    examples: tuple[ChangedExample, ...]


def changed_examples(
    task: Task, examples: Examples, reference: Predictions, candidate: Predictions
) -> ChangedExamples:
    """Collect the examples that a candidate answers otherwise than the reference.

    Args:
        task: The task the examples belong to.
        examples: What was predicted.
        reference: FP32's predictions.
        candidate: The precision's.

    Raises:
        EvaluationError: The two predict different numbers of examples.
    """
    changed = np.flatnonzero(~same_predictions(examples, reference, candidate))
    gains = _closeness(examples, candidate) - _closeness(examples, reference)
    # -1, 1, 0 in this order: what was lost is looked at first.
    rank = np.select([gains[changed] < 0, gains[changed] > 0], [0, 1], 2)
    order = changed[np.argsort(rank, kind="stable")][:KEPT]
    before, after = _Answers.of(task, reference), _Answers.of(task, candidate)
    return ChangedExamples(
        total=len(changed),
        examples=tuple(
            ChangedExample(
                id=examples[row].id,
                texts=_texts(task, examples[row]),
                expected=_expected(task, examples[row]),
                fp32=before.answers[row],
                answer=after.answers[row],
                outcome=_outcome(float(gains[row])),
                fp32_margin=before.margin(row),
                margin=after.margin(row),
            )
            for row in order.tolist()
        ),
    )


def changed_to_dict(changed: ChangedExamples, backend: str, limit: int) -> dict[str, Any]:
    """One precision's entry of `changed_examples`, with at most `limit` examples."""
    return {
        "backend": backend,
        "total": changed.total,
        "examples": [dict(_fields(example)) for example in changed.examples[:limit]],
    }


def _fields(example: ChangedExample) -> Iterator[tuple[str, Any]]:
    yield "id", example.id
    yield "texts", dict(example.texts)
    yield (
        "expected",
        list(example.expected) if isinstance(example.expected, tuple) else example.expected,
    )
    yield "fp32", example.fp32
    yield "answer", example.answer
    yield "outcome", example.outcome.value
    if example.fp32_margin is not None:
        yield "fp32_margin", example.fp32_margin
        yield "margin", example.margin


def _outcome(gain: float) -> Outcome:
    if gain == 0:
        return Outcome.NEITHER
    return Outcome.GAINED if gain > 0 else Outcome.LOST


@dataclass(frozen=True)
class _Answers:
    """Predictions as a person reads them.

    Attributes:
        answers: Class name, number or text of each example.
        margins: Distance of the two largest logits, [examples]; None where there are no classes.
    """

    answers: Sequence[str | float]
    margins: NDArray[np.float64] | None = None

    @staticmethod
    def of(task: Task, predictions: Predictions) -> _Answers:
        if isinstance(predictions, AnswerPredictions):
            return _Answers(predictions.texts)
        if not isinstance(predictions, ClassPredictions):
            return _Answers([round(value, 4) for value in predictions.values.tolist()])
        top = np.sort(predictions.logits.astype(np.float64), axis=1)[:, -2:]
        names = [task.labels[index] for index in predictions.class_ids.tolist()]
        return _Answers(names, top[:, -1] - top[:, 0])

    def margin(self, row: int) -> float | None:
        return None if self.margins is None else round(float(self.margins[row]), 4)


def _closeness(examples: Examples, predictions: Predictions) -> NDArray[np.float64]:
    """How good each prediction is, more is better, [examples]."""
    if isinstance(predictions, AnswerPredictions):
        return squad.f1(predictions.texts, cast("tuple[QuestionExample, ...]", examples))
    labels = labels_of(examples)
    if isinstance(predictions, ClassPredictions):
        return np.asarray(predictions.class_ids == labels, dtype=np.float64)
    return np.asarray(-np.abs(predictions.values - labels), dtype=np.float64)


def _expected(task: Task, example: TextExample | QuestionExample) -> str | float | tuple[str, ...]:
    if isinstance(example, QuestionExample):
        return tuple(dict.fromkeys(example.answers))
    return float(example.label) if task.regression else task.labels[int(example.label)]


def _texts(task: Task, example: TextExample | QuestionExample) -> dict[str, str]:
    if isinstance(example, TextExample):
        return {
            column: _cut(text, 0) for column, text in zip(task.columns, example.texts, strict=True)
        }
    return {
        "question": _cut(example.question, 0),
        "context": _cut(example.context, example.answer_starts[0]),
    }


def _cut(text: str, around: int) -> str:
    """At most `_TEXT_LENGTH` characters of a text, the one at `around` about in their middle."""
    if len(text) <= _TEXT_LENGTH:
        return text
    room = _TEXT_LENGTH - 2 * len(_ELLIPSIS)
    start = min(max(around - room // 2, 0), len(text) - room)
    part = text[start : start + room].strip()
    before = _ELLIPSIS if start > 0 else ""
    after = _ELLIPSIS if start + room < len(text) else ""
    return f"{before}{part}{after}"
