"""The data files of a user's own task: JSONL, CSV, TSV, Parquet or Arrow, by their suffix."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from calib_data.errors import DataNotFoundError
from calib_data.parsing import NotParsableError, parse_json
from calib_data.sources.files import read_text
from calib_data.sources.rows import Repairs, Row, refuse, text_examples
from calib_data.sources.tables import read_table, table_examples
from calib_data.tasks import Examples, Split, Task, TextExample, UserFiles

SUFFIXES = (".jsonl", ".csv", ".tsv", ".parquet", ".arrow")
"""What a user's data files may end in."""


def read_user_files(task: Task, files: UserFiles, split: Split) -> Examples:
    """Read a split of a user's task, its files one after the other.

    JSONL is one object a line. CSV is quoted as RFC 4180 has it. TSV has no quoting, as in GLUE: a
    quote is text, and a field holds neither tab nor line feed. Both have a header line.

    Raises:
        DataNotFoundError: The task file names no file for the split, or one that is not there.
        DataFormatError: A file cannot be read, or a row does not fit the task.
    """
    paths = files.dev if split is Split.DEV else files.train
    if not paths:
        raise DataNotFoundError(
            f"task '{task.name}' has no {split.value} files, and quantizing needs some",
            f"add a line `{split.value}: FILE` to the task file",
        )
    examples: list[TextExample] = []
    for path in paths:
        if not path.is_file():
            raise DataNotFoundError(
                f"{path}: no such file",
                f"check {split.value}: in the task file; its paths start at the task file's folder",
            )
        for example in _read(task, path):
            assert isinstance(example, TextExample)  # a user's task is no question answering
            examples.append(TextExample(str(len(examples)), example.texts, example.label))
    return tuple(examples)


def _read(task: Task, path: Path) -> Examples:
    if path.suffix in (".parquet", ".arrow"):
        return table_examples(task, read_table(path), str(path))
    repairs = Repairs(str(path))
    rows = _json_rows(task, path) if path.suffix == ".jsonl" else _delimited_rows(task, path)
    examples = text_examples(task, rows, repairs)
    repairs.log()
    return examples


def _json_rows(task: Task, path: Path) -> Iterator[Row]:
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        where = f"{path}:{number}"
        if not line.strip():
            continue
        try:
            record = parse_json(line)
        except NotParsableError as error:
            refuse(f"{where}: not JSON ({error})")
        if not isinstance(record, dict):
            refuse(f"{where}: {type(record).__name__} where an object is expected")
        for name in (*task.columns, task.label_column):
            if name not in record:
                refuse(f"{where}: no '{name}' (found: {', '.join(record)})")
        texts = tuple(record[name] for name in task.columns)
        yield Row(texts, record[task.label_column], where)


def _delimited_rows(task: Task, path: Path) -> Iterator[Row]:
    text = read_text(path)
    rows = _csv(path, text) if path.suffix == ".csv" else _tsv(text)
    _, header = next(rows, (1, []))
    for name in (*task.columns, task.label_column):
        if name not in header:
            refuse(f"{path}:1: no column '{name}' (found: {', '.join(header)})")
    wanted = [header.index(name) for name in (*task.columns, task.label_column)]
    for number, fields in rows:
        if len(fields) != len(header):
            refuse(f"{path}:{number}: {len(fields)} fields, the header has {len(header)}")
        *texts, label = (fields[column] for column in wanted)
        yield Row(tuple(texts), label, f"{path}:{number}")


def _tsv(text: str) -> Iterator[tuple[int, Sequence[str]]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip("\r"):
            yield number, line.removesuffix("\r").split("\t")


def _csv(path: Path, text: str) -> Iterator[tuple[int, Sequence[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    first = 1
    with _no_field_limit():
        try:
            for fields in reader:
                if fields:
                    yield first, fields
                first = reader.line_num + 1  # a quoted field may span lines
        except csv.Error as error:
            refuse(f"{path}:{first}: not CSV ({error})")


@contextmanager
def _no_field_limit() -> Iterator[None]:
    """Let a text be longer than the csv module's 131,072 characters."""
    before = csv.field_size_limit(2**31 - 1)  # a C long on every system
    try:
        yield
    finally:
        csv.field_size_limit(before)
