"""What a model predicts, from its raw outputs, and how that scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from calib_data.features import Features
from calib_data.tasks import Examples, Head, QuestionExample, Task, TextExample
from deploy.errors import EvaluationError
from deploy.evaluation import squad
from deploy.evaluation.metrics import METRICS
from deploy.evaluation.resampling import Terms, mean_terms


@dataclass(frozen=True)
class ClassPredictions:
    """Predictions of a classification task.

    Attributes:
        logits: float32 [examples, classes], the classes in the order of the task's labels.
    """

    logits: NDArray[np.float32]

    @property
    def class_ids(self) -> NDArray[np.int64]:
        """The most likely class of each example, int64 [examples]."""
        ids: NDArray[np.int64] = self.logits.argmax(axis=1)
        return ids


@dataclass(frozen=True)
class ValuePredictions:
    """Predictions of a regression task.

    Attributes:
        values: One number for each example, float32 [examples].
    """

    values: NDArray[np.float32]


@dataclass(frozen=True)
class AnswerPredictions:
    """Predictions of a question answering task.

    Attributes:
        texts: One answer for each question.
    """

    texts: tuple[str, ...]


# Rows that an error about outputs lists.
_NAMED = 5

Predictions = ClassPredictions | ValuePredictions | AnswerPredictions

Outputs = Mapping[str, Sequence[NDArray[np.float32]]]
"""One array for each feature row, without padding, by the name of the model's output."""


def predict_from_outputs(
    task: Task, examples: Examples, features: Features, outputs: Outputs
) -> Predictions:
    """Turn a model's outputs into one prediction for each example.

    Args:
        task: The task the examples belong to.
        examples: What was tokenized.
        features: The rows that were run.
        outputs: `logits`, each [classes] in the model's order, for classification, each [1] for
            regression; `start_logits` and `end_logits`, each [tokens], for question answering.

    Returns:
        Predictions in the order of `examples`.

    Raises:
        EvaluationError: An output is missing, has another shape than the rows ask for, or holds a
            value that is not finite.
    """
    if task.head is Head.QUESTION_ANSWERING:
        lengths = features.lengths.tolist()
        questions = cast("tuple[QuestionExample, ...]", examples)
        start = _checked(outputs, "start_logits", lengths)
        end = _checked(outputs, "end_logits", lengths)
        return AnswerPredictions(squad.answers(features, questions, start, end))
    rows = _checked(outputs, "logits", [task.outputs] * len(features.input_ids))
    logits = np.stack(rows) if rows else np.empty((0, task.outputs), dtype=np.float32)
    if task.regression:
        return ValuePredictions(logits[:, 0])
    return ClassPredictions(logits[:, list(task.output_order)] if task.output_order else logits)


def score(task: Task, examples: Examples, predictions: Predictions) -> dict[str, float]:
    """Rate predictions by the task's metrics.

    Returns:
        Each of `task.metrics`, in that order: from 0 to 1, correlations from -1 to 1.
    """
    if isinstance(predictions, AnswerPredictions):
        return {name: t.total() for name, t in score_terms(task, examples, predictions).items()}
    labels, predicted = _pairs(examples, predictions)
    return {name: METRICS[name].score(labels, predicted) for name in task.metrics}


def score_terms(task: Task, examples: Examples, predictions: Predictions) -> dict[str, Terms]:
    """Each of `task.metrics` as terms of the single examples, for resampling."""
    if isinstance(predictions, AnswerPredictions):
        questions = cast("tuple[QuestionExample, ...]", examples)
        per_question = {"exact_match": squad.exact_match, "f1": squad.f1}
        return {
            name: mean_terms(per_question[name](predictions.texts, questions))
            for name in task.metrics
        }
    labels, predicted = _pairs(examples, predictions)
    return {name: METRICS[name].terms(labels, predicted) for name in task.metrics}


def labels_of(examples: Examples) -> NDArray[np.float64]:
    """Class ids, or the numbers of a regression task, float64 [examples]."""
    texts = cast("tuple[TextExample, ...]", examples)
    return np.array([example.label for example in texts], dtype=np.float64)


def _pairs(
    examples: Examples, predictions: ClassPredictions | ValuePredictions
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Labels and predictions, in the type that the metrics take."""
    labels = labels_of(examples)
    if isinstance(predictions, ValuePredictions):
        return labels, predictions.values.astype(np.float64)
    return labels.astype(np.int64), predictions.class_ids


def _checked(outputs: Outputs, name: str, lengths: Sequence[int]) -> Sequence[NDArray[np.float32]]:
    if name not in outputs:
        raise EvaluationError(
            f"the model has no output '{name}' (found: {', '.join(outputs)})",
            "use a model whose head fits --task",
        )
    rows = outputs[name]
    if len(rows) != len(lengths):
        raise EvaluationError(
            f"output '{name}' has {len(rows)} rows, {len(lengths)} were fed",
            "use --task with the task the model was fine-tuned for",
        )
    for index, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        if row.shape != (length,):
            raise EvaluationError(
                f"output '{name}', row {index}: shape {list(row.shape)}, expected [{length}]",
                "use --task with the task the model was fine-tuned for",
            )
    # argmax and sorting would turn NaN into an answer that looks like any other.
    wrong = [index for index, row in enumerate(rows) if not np.isfinite(row).all()]
    if wrong:
        first, *others = wrong
        value = rows[first][~np.isfinite(rows[first])][0]
        named = ", ".join(map(str, others[:_NAMED])) + (", …" if len(others) > _NAMED else "")
        more = f", and {len(others)} more of {len(rows)} are not finite: {named}" if others else ""
        raise EvaluationError(
            f"output '{name}', row {first} holds {value}{more}",
            "use another precision, or a checkpoint whose weights and activations are finite",
        )
    return rows
