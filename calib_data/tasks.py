"""What a model is fed and how it is judged: one `Task` per benchmark data set."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from calib_data.errors import UnknownTaskError


class Head(str, Enum):
    """The kind of model head that a task needs."""

    SEQUENCE_CLASSIFICATION = "sequence-classification"
    QUESTION_ANSWERING = "question-answering"


class Split(str, Enum):
    """A part of a task's data.

    Calibration and every choice of a recipe use `TRAIN`; `DEV` is for reporting alone.
    """

    TRAIN = "train"
    DEV = "dev"


@dataclass(frozen=True)
class HubDataset:
    """Where a task's data lives on the Hugging Face hub.

    Attributes:
        path: Repository id of the data set.
        config: Name of the configuration, or None for the only one.
        dev_split: What the hub calls the development split.
    """

    path: str
    config: str | None
    dev_split: str = "validation"


@dataclass(frozen=True)
class Task:
    """A data set together with the way a model is fed from it and judged on it.

    Attributes:
        name: The name on the command line.
        head: The model head the task needs.
        columns: Names of the one or two text columns, as the hub's data set has them.
        labels: Class names in the order of their ids; empty for question answering.
        metrics: Metric names; the first is the one that gates and verdicts look at.
        max_length: Tokens at which an input is cut (classification) or windowed (SQuAD).
        buckets: Default sequence buckets, ascending; the last equals `max_length`.
        folder: Where a local copy lies below `--data-dir`, in the benchmark's own layout.
        hub: Where the hub has it; None for a task that exists only in this package.
        doc_stride: Tokens by which SQuAD windows overlap; 0 where nothing is windowed.
    """

    name: str
    head: Head
    columns: tuple[str, ...]
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    max_length: int
    buckets: tuple[int, ...]
    folder: str
    hub: HubDataset | None
    doc_stride: int = 0


@dataclass(frozen=True)
class TextExample:
    """One row of a classification task.

    Attributes:
        id: Unique within its split.
        texts: One text, or two for a sentence-pair task.
        label: Class id.
    """

    id: str
    texts: tuple[str, ...]
    label: int


@dataclass(frozen=True)
class QuestionExample:
    """One SQuAD question.

    Attributes:
        id: The data set's own id.
        question: The question, as written.
        context: The paragraph that holds the answer.
        answers: Accepted answer texts, at least one.
        answer_starts: Character offset in `context` of each answer.
    """

    id: str
    question: str
    context: str
    answers: tuple[str, ...]
    answer_starts: tuple[int, ...]


Examples = tuple[TextExample, ...] | tuple[QuestionExample, ...]


_GLUE = "nyu-mll/glue"

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            name="sst2",
            head=Head.SEQUENCE_CLASSIFICATION,
            columns=("sentence",),
            labels=("negative", "positive"),
            metrics=("accuracy",),
            max_length=128,
            buckets=(32, 64, 128),
            folder="glue/SST-2",
            hub=HubDataset(_GLUE, "sst2"),
        ),
        Task(
            name="mrpc",
            head=Head.SEQUENCE_CLASSIFICATION,
            columns=("sentence1", "sentence2"),
            labels=("not_equivalent", "equivalent"),
            metrics=("accuracy", "f1"),
            max_length=128,
            buckets=(64, 96, 128),
            folder="glue/MRPC",
            hub=HubDataset(_GLUE, "mrpc"),
        ),
        Task(
            name="squad",
            head=Head.QUESTION_ANSWERING,
            columns=("question", "context"),
            labels=(),
            metrics=("f1", "exact_match"),
            max_length=384,
            buckets=(128, 256, 384),
            folder="squad",
            hub=HubDataset("rajpurkar/squad", None),
            doc_stride=128,
        ),
        Task(
            name="demo",
            head=Head.SEQUENCE_CLASSIFICATION,
            columns=("text",),
            labels=("negative", "positive"),
            metrics=("accuracy",),
            max_length=64,
            buckets=(32, 64),
            folder="demo",
            hub=None,
        ),
    )
}


def get_task(name: str) -> Task:
    """Look a task up by its command-line name.

    Raises:
        UnknownTaskError: No such task; the remedy lists those there are.
    """
    try:
        return TASKS[name]
    except KeyError:
        raise UnknownTaskError(
            f"unknown task '{name}'", f"use --task with one of: {', '.join(TASKS)}"
        ) from None
