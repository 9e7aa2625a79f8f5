"""The head that a task needs of a model, and which of its outputs is which label."""

from __future__ import annotations

from typing import Any

from calib_data.labels import are_placeholders, match_labels
from calib_data.tasks import Head, Task
from export.errors import UnsupportedModelError

_HEAD_SUFFIX = {
    Head.SEQUENCE_CLASSIFICATION: "ForSequenceClassification",
    Head.QUESTION_ANSWERING: "ForQuestionAnswering",
}


def check_head(source: str, config: Any, task: Task) -> tuple[int, ...] | None:
    """Check a configuration's head, and tie its outputs to the task's labels by their names.

    Args:
        source: Where the configuration comes from, for messages.
        config: The model's configuration.
        task: What the model is to be run on.

    Returns:
        For each of the task's labels which output it is; None where the configuration has no names,
        or the task no classes.

    Raises:
        UnsupportedModelError: Another head, another number of labels, or other labels.
    """
    suffix = _HEAD_SUFFIX[task.head]
    names = config.architectures or ["(none)"]
    if not names[0].endswith(suffix):
        raise UnsupportedModelError(
            f"'{source}' is a {names[0]}, but task '{task.name}' needs a model {suffix}",
            f"fine-tune the encoder for {task.name}, or choose the --task the model was made for",
        )
    return _label_order(source, config, task)


def _label_order(source: str, config: Any, task: Task) -> tuple[int, ...] | None:
    """Where each of the task's labels is among the model's outputs; None if it does not say."""
    if task.head is not Head.SEQUENCE_CLASSIFICATION:
        return None
    if config.num_labels != task.outputs:
        wanted = ", ".join(task.labels) or "one output, a number"
        raise UnsupportedModelError(
            f"'{source}' has {_count(config.num_labels)}, but task '{task.name}' has "
            f"{_count(task.outputs)}: {wanted}",
            "choose the --task that the model was fine-tuned for",
        )
    names = [str(name) for _, name in sorted(config.id2label.items())]
    order = match_labels(names, task.labels)
    if task.regression or (order is None and are_placeholders(names)):
        return None
    if order is None:
        raise UnsupportedModelError(
            f"'{source}' names its labels {', '.join(names)}, task '{task.name}' names them "
            f"{', '.join(task.labels)}",
            "if it is the task's model, write the task's names into id2label in config.json, in "
            "the order of the model's outputs",
        )
    return order


def _count(labels: int) -> str:
    return "1 label" if labels == 1 else f"{labels} labels"
