"""A user's own task, described by a small YAML file.

name: tickets
train: train.jsonl              # JSONL, CSV, TSV, Parquet or Arrow; a list for several
dev: [dev-1.csv, dev-2.csv]     # paths start at this file's folder
text: [title, body]             # one column, or two for a pair
label: queue                    # the label column; default: label
labels: [billing, bug, other]   # in the order of their ids; default: the checkpoint's id2label
metrics: [accuracy, matthews]   # default: accuracy; regression: pearson, spearman
max_length: 256                 # tokens; default: 128
buckets: [64, 128, 256]         # default: 32, 64, 128, 256, 384 up to max_length
type: classification            # or regression: numbers for labels, a head of size 1
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from calib_data.errors import TaskFileError
from calib_data.parsing import NotParsableError, parse_yaml
from calib_data.sources.user_files import SUFFIXES
from calib_data.tasks import CLASS_METRICS, REGRESSION_METRICS, TASKS, Head, Task, UserFiles

_KEYS = (
    "name",
    "train",
    "dev",
    "text",
    "label",
    "labels",
    "metrics",
    "max_length",
    "buckets",
    "type",
)
_TYPES = ("classification", "regression")
_REMEDY = "docs/tasks.md shows a task file"
_MAX_LENGTH = 128
_BUCKETS = (32, 64, 128, 256, 384)
_SHORTEST = 8  # tokens


def load_task(path: Path) -> Task:
    """Read a task file.

    The data files are not opened; `load_examples` does that.

    Raises:
        TaskFileError: The file is missing, is not YAML, or a field is missing, unknown or wrong.
    """
    return parse_task(path, _read(path))


def parse_task(path: Path, content: bytes) -> Task:
    """A task out of a task file's content.

    Args:
        path: Where the file is or was; its data files' paths start at its folder.
        content: What is in it.

    Raises:
        TaskFileError: It is not YAML, or a field is missing, unknown or wrong.
    """
    plain = _parse(path, content)
    unknown = [str(key) for key in plain if key not in _KEYS]
    if unknown:
        _refuse(path, unknown[0], "is not a field of a task", f"known are: {', '.join(_KEYS)}")
    kind = plain.get("type", _TYPES[0])
    if kind not in _TYPES:
        _refuse(path, "type", f"is '{kind}'", f"write one of: {', '.join(_TYPES)}")
    regression = kind == "regression"
    labels = _labels(path, plain, regression)
    max_length = _integer(path, "max_length", plain.get("max_length", _MAX_LENGTH))
    files = UserFiles(
        train=_files(path, plain, "train"),
        dev=_files(path, plain, "dev"),
        text=content.decode("utf-8"),
        digest=hashlib.sha256(content).hexdigest(),
    )
    if not files.dev:
        _refuse(path, "dev", "is missing", "name the file that the model is judged on")
    return Task(
        name=_name(path, plain),
        head=Head.SEQUENCE_CLASSIFICATION,
        columns=_columns(path, plain),
        labels=labels,
        metrics=_metrics(path, plain, regression, labels),
        max_length=max_length,
        buckets=_buckets(path, plain, max_length),
        folder="",
        hub=None,
        regression=regression,
        label_column=_text(path, "label", plain.get("label", "label")),
        files=files,
    )


def with_labels(task: Task, labels: tuple[str, ...]) -> Task:
    """Complete a task that leaves its labels to the checkpoint.

    Raises:
        TaskFileError: A metric of the task is not defined for so many labels.
    """
    if "f1" in task.metrics and len(labels) != 2:
        raise TaskFileError(
            f"task '{task.name}': metrics has f1, the F1 of the second of two labels, and the "
            f"checkpoint has {len(labels)}",
            "use accuracy or matthews",
        )
    return replace(task, labels=labels)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TaskFileError(
            f"cannot read the task file '{path}': {error.strerror}",
            f"use --task with one of {', '.join(TASKS)}, or with a YAML file that exists",
        ) from error


def _parse(path: Path, content: bytes) -> Mapping[str, Any]:
    try:
        plain = parse_yaml(content)
    except NotParsableError as error:
        where = f"{path}:{error.line}" if error.line else str(path)
        raise TaskFileError(f"{where}: not YAML: {error}", "mend the file's syntax") from error
    if not isinstance(plain, dict):
        raise TaskFileError(f"{path}: no fields in it", _REMEDY)
    return plain


def _refuse(path: Path, field: str, problem: str, remedy: str = _REMEDY) -> NoReturn:
    raise TaskFileError(f"{path}: {field} {problem}", remedy)


def _name(path: Path, plain: Mapping[str, Any]) -> str:
    name = _text(path, "name", plain.get("name"))
    if name in TASKS:
        _refuse(path, "name", f"'{name}' is a task of this package", "choose another name")
    return name


def _text(path: Path, field: str, value: Any) -> str:
    if value is None:
        _refuse(path, field, "is missing")
    if not isinstance(value, str) or not value.strip():
        _refuse(path, field, f"is {value!r}, not a text")
    return value


def _texts(path: Path, field: str, value: Any) -> tuple[str, ...]:
    items = value if isinstance(value, list) else [value]
    texts = tuple(_text(path, field, item) for item in items)
    if len(set(texts)) < len(texts):
        _refuse(path, field, "names something twice")
    return texts


def _files(path: Path, plain: Mapping[str, Any], field: str) -> tuple[Path, ...]:
    if plain.get(field) is None:
        return ()
    files = tuple(path.parent / Path(name) for name in _texts(path, field, plain[field]))
    for file in files:
        if file.suffix not in SUFFIXES:
            _refuse(path, field, f"is '{file.name}'", f"name a file with {', '.join(SUFFIXES)}")
    return files


def _columns(path: Path, plain: Mapping[str, Any]) -> tuple[str, ...]:
    columns = _texts(path, "text", plain.get("text"))
    if not 1 <= len(columns) <= 2:
        _refuse(path, "text", f"names {len(columns)} columns", "name one, or two for a pair")
    return columns


def _labels(path: Path, plain: Mapping[str, Any], regression: bool) -> tuple[str, ...]:
    value = plain.get("labels")
    if value is None:
        return ()
    if regression:
        _refuse(path, "labels", "are given for a regression", "leave them out")
    if not isinstance(value, list):
        _refuse(path, "labels", f"is {value!r}, not a list")
    # YAML reads unquoted stars of a review as numbers, and `no` as false.
    wrong = [item for item in value if isinstance(item, bool) or not isinstance(item, (str, int))]
    if wrong:
        _refuse(path, "labels", f"has {wrong[0]!r}, not a name", "put names into quotes")
    labels = tuple(str(item) for item in value)
    if len({label.casefold() for label in labels}) < len(labels) or len(labels) < 2:
        _refuse(path, "labels", "needs two different names or more")
    return labels


def _metrics(
    path: Path, plain: Mapping[str, Any], regression: bool, labels: tuple[str, ...]
) -> tuple[str, ...]:
    known = REGRESSION_METRICS if regression else CLASS_METRICS
    if plain.get("metrics") is None:
        return known if regression else known[:1]
    metrics = _texts(path, "metrics", plain["metrics"])
    for name in metrics:
        if name not in known:
            _refuse(path, "metrics", f"has '{name}'", f"choose from: {', '.join(known)}")
    if "f1" in metrics and len(labels) not in (0, 2):
        _refuse(
            path,
            "metrics",
            f"has f1, the F1 of the second of two labels, and there are {len(labels)}",
            "use accuracy or matthews",
        )
    return metrics


def _integer(path: Path, field: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < _SHORTEST:
        _refuse(path, field, f"is {value!r}", f"give a whole number from {_SHORTEST}")
    return value


def _buckets(path: Path, plain: Mapping[str, Any], max_length: int) -> tuple[int, ...]:
    value = plain.get("buckets")
    if value is None:
        return (*(bucket for bucket in _BUCKETS if bucket < max_length), max_length)
    items = value if isinstance(value, list) else [value]
    buckets = tuple(sorted({_integer(path, "buckets", item) for item in items}))
    if not buckets or buckets[-1] != max_length:
        _refuse(path, "buckets", f"is {value!r}", f"end it with max_length, {max_length}")
    return buckets
