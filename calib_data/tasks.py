"""What a model is fed and how it is judged: one `Task` per benchmark data set."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

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

    def split(self, split: Split) -> str:
        """What the hub calls a split."""
        return self.dev_split if split is Split.DEV else split.value


@dataclass(frozen=True)
class UserFiles:
    """The data files of a user's own task.

    Attributes:
        train: Files of the training split, in order; may be empty.
        dev: Files of the development split, in order; at least one.
        text: Content of the task file that names them.
        digest: Its SHA-256, in hexadecimal.
    """

    train: tuple[Path, ...]
    dev: tuple[Path, ...]
    text: str
    digest: str


@dataclass(frozen=True)
class Task:
    """A data set together with the way a model is fed from it and judged on it.

    Attributes:
        name: The name on the command line, or the one that a user's task file gives.
        head: The model head the task needs.
        columns: Names of the one or two text columns, as the hub's data set has them.
        labels: Class names in the order of their ids. Empty for question answering, for regression,
            and for a user's task that leaves them to the checkpoint, until that is known.
        metrics: Metric names; the first is the main one, which gates and verdicts look at.
        max_length: Tokens at which an input is cut (classification) or windowed (SQuAD).
        buckets: Default sequence buckets, ascending; the last equals `max_length`.
        folder: Where a local copy lies below `--data-dir`, in the benchmark's own layout.
        hub: Where the hub has it; None for a task that exists only in this package, or is a user's.
        doc_stride: Tokens by which SQuAD windows overlap; 0 where nothing is windowed.
        regression: Whether the model predicts one number for an example instead of a class.
        label_column: Name of the column that holds class ids, class names or numbers.
        files: The data of a user's task; None for all others.
        output_order: Which output of the model is each label's, as the checkpoint's configuration
            tells; empty where the model numbers its labels as the task does.
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
    regression: bool = False
    label_column: str = "label"
    files: UserFiles | None = None
    output_order: tuple[int, ...] = ()

    @property
    def identity(self) -> str:
        """The name, and for a user's task also the start of its file's digest.

        Two task files of one name are two tasks. The data files are not part of it: what is made
        from their rows carries the rows' own fingerprint.
        """
        return self.name if self.files is None else f"{self.name}@{self.files.digest[:12]}"

    @property
    def outputs(self) -> int:
        """Values that a text task's model gives for an example: one a class, or the number."""
        return 1 if self.regression else len(self.labels)

    @property
    def labels_from_checkpoint(self) -> bool:
        """Whether the class names are still to be read from the checkpoint's configuration."""
        classifies = self.head is Head.SEQUENCE_CLASSIFICATION and not self.regression
        return classifies and not self.labels


@dataclass(frozen=True)
class TextExample:
    """One row of a classification or regression task.

    Attributes:
        id: Unique within its split.
        texts: One text, or two for a sentence-pair task.
        label: Class id (int), or the number to be predicted (float).
    """

    id: str
    texts: tuple[str, ...]
    label: int | float


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


CLASS_METRICS = ("accuracy", "f1", "matthews")
"""What a classification task may be judged by."""

REGRESSION_METRICS = ("pearson", "spearman")
"""What a regression task may be judged by."""

_GLUE = "nyu-mll/glue"
_SENTENCES = ("sentence1", "sentence2")
_SHORT = (32, 64, 128)
_LONG = (64, 96, 128)


def _glue(
    name: str,
    folder: str,
    columns: tuple[str, ...],
    labels: tuple[str, ...],
    metrics: tuple[str, ...] = ("accuracy",),
    buckets: tuple[int, ...] = _SHORT,
    hub: HubDataset | None = None,
) -> Task:
    """A GLUE task: label order of the hub, inputs cut where run_glue.py cuts them."""
    return Task(
        name=name,
        head=Head.SEQUENCE_CLASSIFICATION,
        columns=columns,
        labels=labels,
        metrics=metrics,
        max_length=buckets[-1],
        buckets=buckets,
        folder=f"glue/{folder}",
        hub=hub or HubDataset(_GLUE, name),
        regression=not labels,
    )


# Buckets follow the lengths of each task's sentences in WordPiece tokens.
TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        _glue(
            "cola",
            "CoLA",
            ("sentence",),
            ("unacceptable", "acceptable"),
            metrics=("matthews",),
            buckets=(32, 64),  # no sentence comes near 64 tokens
        ),
        _glue("sst2", "SST-2", ("sentence",), ("negative", "positive")),
        _glue(
            "mrpc",
            "MRPC",
            _SENTENCES,
            ("not_equivalent", "equivalent"),
            metrics=("accuracy", "f1"),
            buckets=_LONG,
        ),
        _glue("stsb", "STS-B", _SENTENCES, (), metrics=("pearson", "spearman")),
        _glue(
            "qqp",
            "QQP",
            ("question1", "question2"),
            ("not_duplicate", "duplicate"),
            metrics=("accuracy", "f1"),
        ),
        _glue(
            "mnli",
            "MNLI",
            ("premise", "hypothesis"),
            ("entailment", "neutral", "contradiction"),
            hub=HubDataset(_GLUE, "mnli", "validation_matched"),
        ),
        _glue(
            "mnli-mm",
            "MNLI",
            ("premise", "hypothesis"),
            ("entailment", "neutral", "contradiction"),
            hub=HubDataset(_GLUE, "mnli", "validation_mismatched"),
        ),
        _glue(
            "qnli",
            "QNLI",
            ("question", "sentence"),
            ("entailment", "not_entailment"),
            buckets=_LONG,
        ),
        _glue("rte", "RTE", _SENTENCES, ("entailment", "not_entailment"), buckets=_LONG),
        # The only one of the inference tasks that numbers its labels this way round.
        _glue("wnli", "WNLI", _SENTENCES, ("not_entailment", "entailment")),
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


def is_task_file(name: str) -> bool:
    """Whether a task is meant by its YAML file instead of by its name."""
    return name.endswith((".yaml", ".yml"))


def get_task(name: str) -> Task:
    """Look a task up by its command-line name, or read a user's task file.

    Raises:
        UnknownTaskError: No such task; the remedy lists those there are.
        TaskFileError: A task file that is missing or wrong.
    """
    if is_task_file(name):
        from calib_data.user_task import load_task

        return load_task(Path(name))
    try:
        return TASKS[name]
    except KeyError:
        raise UnknownTaskError(
            f"unknown task '{name}'",
            f"use --task with one of: {', '.join(TASKS)}; or with a task's YAML file",
        ) from None
