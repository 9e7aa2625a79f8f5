"""From raw rows, whatever file they come from, to checked examples."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, NoReturn

from calib_data.errors import DataFormatError
from calib_data.labels import are_placeholders, canonical, match_labels
from calib_data.tasks import QuestionExample, Task, TextExample

_LOG = logging.getLogger(__name__)

_REMEDY = "mend what is named, or fetch the data set again from where it is published"


class Row(NamedTuple):
    """A row of a text task, unchecked.

    Attributes:
        texts: What stands in the text columns.
        label: What stands in the label column.
        where: File and line, or data set and row, for messages.
    """

    texts: tuple[object, ...]
    label: object
    where: str


class Repairs:
    """Counts of what was set right in a data set, so that each kind is logged once."""

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self._places: dict[str, list[str]] = {}

    def add(self, kind: str, where: str) -> None:
        """Count one more, at `where`."""
        self._places.setdefault(kind, []).append(where)

    def log(self) -> None:
        """Log each kind with its count and where it first occurred."""
        for kind, places in self._places.items():
            _LOG.warning("%s: %s (%d; the first: %s)", self._origin, kind, len(places), places[0])


def refuse(message: str, remedy: str = _REMEDY) -> NoReturn:
    """Raise the error for content that cannot be used.

    Raises:
        DataFormatError: Always.
    """
    raise DataFormatError(message, remedy)


def text_examples(
    task: Task,
    rows: Iterable[Row],
    repairs: Repairs,
    stored_names: Sequence[str] | None = None,
) -> tuple[TextExample, ...]:
    """Check rows and number them.

    Args:
        task: What they belong to.
        rows: The rows.
        repairs: Counts pairs of which one text is empty; they stay as they are.
        stored_names: Class names that the data set itself keeps with its ids.

    Raises:
        DataFormatError: A text or label is missing, or not one that the task has.
    """
    ids = {} if task.regression else _label_ids(task, stored_names)
    examples = []
    for index, row in enumerate(rows):
        texts = tuple(checked_text(text, row.where, may_be_empty=True) for text in row.texts)
        filled = sum(bool(text.strip()) for text in texts)
        if filled == 0:
            refuse(f"{row.where}: empty text")
        if filled < len(texts):
            repairs.add(
                "pairs with one empty text are kept, as the official data has them", row.where
            )
        label = _number(row.label, row.where) if task.regression else _class_id(ids, task, row)
        examples.append(TextExample(str(index), texts, label))
    return tuple(examples)


def unique_questions(
    questions: Iterable[QuestionExample], origin: str
) -> tuple[QuestionExample, ...]:
    """Check that no two questions share an id, by which their answers are told apart.

    Raises:
        DataFormatError: Two do.
    """
    known: dict[str, QuestionExample] = {}
    for question in questions:
        if question.id in known:
            refuse(f"{origin}: question id '{question.id}' occurs twice")
        known[question.id] = question
    return tuple(known.values())


def question_example(
    identity: str,
    question: object,
    context: object,
    answers: Sequence[str],
    starts: Sequence[int],
    where: str,
) -> QuestionExample:
    """Check a SQuAD question.

    Raises:
        DataFormatError: A text is empty, there is no answer, or one is not where its offset says.
    """
    text = checked_text(context, f"{where}, context")
    if not answers:
        refuse(f"{where}: no answers (SQuAD v2 is not supported)")
    if len(answers) != len(starts):
        refuse(f"{where}: {len(answers)} answers, but {len(starts)} offsets")
    for answer, start in zip(answers, starts, strict=True):
        if not answer or start < 0 or not text.startswith(answer, start):
            refuse(f"{where}: the context has no '{answer}' at character {start}")
    return QuestionExample(
        identity, checked_text(question, where), text, tuple(answers), tuple(starts)
    )


def checked_text(text: object, where: str, may_be_empty: bool = False) -> str:
    """A text, verbatim.

    Raises:
        DataFormatError: It is none, or it is empty.
    """
    if not isinstance(text, str):
        what = "nothing" if text is None else type(text).__name__
        refuse(f"{where}: {what} where a text is expected")
    if not may_be_empty and not text.strip():
        refuse(f"{where}: empty text")
    return text


def _label_ids(task: Task, stored_names: Sequence[str] | None) -> dict[str, int]:
    """Every way in which the data may write a label, to its id."""
    # Names that are numbers, such as stars of a review, leave no room for ids beside them.
    ids = {} if are_placeholders(task.labels) else {str(i): i for i in range(len(task.labels))}
    if stored_names is not None:
        order = match_labels(stored_names, task.labels)
        if order is None and not are_placeholders(stored_names):
            refuse(
                f"the data's labels are {', '.join(stored_names)}, those of task '{task.name}' "
                f"are {', '.join(task.labels)}",
                "choose the --task that the data belongs to",
            )
        if order is not None:
            ids = {str(stored): label for label, stored in enumerate(order)}
    spelled = {canonical(name): index for index, name in enumerate(task.labels)}
    exact = {name.casefold(): index for index, name in enumerate(task.labels)}
    return {**ids, **spelled, **exact} if stored_names is None else ids


def _class_id(ids: Mapping[str, int], task: Task, row: Row) -> int:
    value = row.label
    # A column with a gap anywhere comes out of pandas as floats.
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).strip()
    for spelling in (text, text.casefold(), canonical(text)):
        if spelling in ids:
            return ids[spelling]
    # The hub writes -1 where the benchmark keeps its labels secret.
    numbers = ", ".join(str(index) for index in range(len(task.labels)))
    refuse(
        f"{row.where}: label '{text}' is not one of {numbers} ({', '.join(task.labels)})"
        if not are_placeholders(task.labels)
        else f"{row.where}: label '{text}' is not one of {', '.join(task.labels)}"
    )


def _number(value: object, where: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(str(value).strip())
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        refuse(f"{where}: label '{value}' is not a finite number")
    return number
