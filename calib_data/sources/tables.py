"""Tables in Arrow's memory: Parquet and Arrow files, and folders that `datasets` has saved."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib_data.errors import DataNotFoundError
from calib_data.parsing import NotParsableError, parse_json
from calib_data.sources.rows import (
    Repairs,
    Row,
    question_example,
    refuse,
    text_examples,
    unique_questions,
)
from calib_data.sources.squad_json import member
from calib_data.tasks import Examples, Head, QuestionExample, Task

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

_SHARD = re.compile(r"-(\d{5})-of-(\d{5})$")


def read_saved(task: Task, split: str, folder: Path) -> Examples | None:
    """Read a split that `datasets.save_to_disk` wrote, alone or as part of a `DatasetDict`.

    A split is a folder of its name. The folder itself counts too if what is saved in it says that
    it is this split.

    Returns:
        The examples; None where nothing of the kind lies there.

    Raises:
        DataFormatError: It cannot be read, or its content does not fit the task.
    """
    for place in (folder / split, folder):
        state = place / "state.json"
        if not state.is_file() or (place is folder and not _says_split(state, split)):
            continue
        import datasets

        try:
            dataset = datasets.load_from_disk(str(place))
        # Whatever pyarrow, fsspec and datasets raise about a damaged folder; no common base.
        except Exception as error:
            refuse(f"{place}: not readable as a saved data set: {_one_line(error)}")
        return table_examples(task, dataset_table(dataset), str(place))
    return None


def read_table_files(task: Task, split: str, folder: Path, suffix: str) -> Examples | None:
    """Read a split from Parquet or Arrow files named as the hub and its cache name them.

    `validation.parquet`, `validation-00000-of-00002.parquet`, `glue-validation.arrow`.

    Args:
        task: The task.
        split: The hub's name for the split.
        folder: Where the files are.
        suffix: "parquet" or "arrow".

    Returns:
        The examples; None where there is no such file.

    Raises:
        DataNotFoundError: A part is missing.
        DataFormatError: A file cannot be read, or its content does not fit the task.
    """
    name = re.compile(rf"(?:.+-)?{re.escape(split)}(?:{_SHARD.pattern[:-1]})?\.{suffix}")
    files = sorted(file for file in folder.glob(f"*.{suffix}") if name.fullmatch(file.name))
    if not files:
        return None
    _check_parts(files)
    tables = [(read_table(file), str(file)) for file in files]
    return _concatenated(task, tables, str(files[0] if len(files) == 1 else folder))


def read_table(file: Path) -> pa.Table:
    """Read one Parquet or Arrow file.

    Raises:
        DataFormatError: It is neither.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if file.suffix == ".parquet":
            return pq.read_table(file)
        with pa.memory_map(str(file)) as source:
            try:
                return pa.ipc.open_stream(source).read_all()  # what `datasets` writes
            except pa.ArrowInvalid:
                return pa.ipc.open_file(source).read_all()  # Feather
    except (pa.ArrowException, OSError) as error:
        refuse(f"{file}: not readable as {file.suffix[1:]}: {_one_line(error)}")


def dataset_table(dataset: datasets.Dataset) -> pa.Table:
    """The table of a data set of the `datasets` library, its class names with it."""
    table = dataset.with_format("arrow")[:]
    return table.replace_schema_metadata(dataset.features.arrow_schema.metadata)


def table_examples(task: Task, table: pa.Table, origin: str) -> Examples:
    """Turn a table with the hub's columns into examples.

    Raises:
        DataFormatError: A column is missing, or a row does not fit the task.
    """
    return _concatenated(task, [(table, origin)], origin)


def _concatenated(task: Task, tables: Sequence[tuple[pa.Table, str]], origin: str) -> Examples:
    tables = [(_checked(table, where), where) for table, where in tables]
    if task.head is Head.QUESTION_ANSWERING:
        questions = (q for table, where in tables for q in _questions(table, where))
        return unique_questions(questions, origin)
    repairs = Repairs(origin)
    names = None if task.regression else _stored_names(tables[0][0], task.label_column)
    rows = (row for table, where in tables for row in _text_rows(task, table, where))
    examples = text_examples(task, rows, repairs, names)
    repairs.log()
    return examples


def _text_rows(task: Task, table: pa.Table, origin: str) -> Iterator[Row]:
    texts = [_values(table, column, origin) for column in task.columns]
    labels = _values(table, task.label_column, origin)
    for index, (label, *parts) in enumerate(zip(labels, *texts, strict=True)):
        yield Row(tuple(parts), label, f"{origin}, row {index}")


def _questions(table: pa.Table, origin: str) -> Iterator[QuestionExample]:
    names = ("id", "question", "context", "answers")
    rows = zip(*(_values(table, name, origin) for name in names), strict=True)
    for index, (identity, question, context, answers) in enumerate(rows):
        if not isinstance(identity, str):
            refuse(f"{origin}, row {index}: no 'id' of type str")
        where = f"{origin}, question '{identity}'"
        texts = member(answers, "text", list, where)
        starts = member(answers, "answer_start", list, where)
        if None in texts or None in starts:
            refuse(f"{where}: an answer without text or offset")
        yield question_example(identity, question, context, texts, starts, where)


def _values(table: pa.Table, name: str, origin: str) -> list[Any]:
    import pyarrow as pa

    if name not in table.column_names:
        refuse(f"{origin}: no column '{name}' (found: {', '.join(table.column_names)})")
    column = table.column(name)
    if pa.types.is_float32(column.type):
        # STS-B's 3.8 comes from the hub as float32: the shortest decimal is the published score.
        return [None if value is None else float(str(value)) for value in _float32(column)]
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)  # categories, as pandas writes them
    try:
        values: list[Any] = column.to_pylist()
    except UnicodeDecodeError as error:
        refuse(f"{origin}, row {_first_undecodable(column)}: '{name}' is not UTF-8 ({error})")
    return values


def _float32(column: pa.ChunkedArray) -> list[Any]:
    import numpy as np

    return [None if value is None else np.float32(value) for value in column.to_pylist()]


def _first_undecodable(column: pa.ChunkedArray) -> int:
    for index, value in enumerate(column):
        try:
            value.as_py()
        except UnicodeDecodeError:
            return index
    raise AssertionError("the column decodes value by value, but not as a whole")


def _stored_names(table: pa.Table, column: str) -> list[str] | None:
    """The names of a `ClassLabel` column, which `datasets` keeps with the schema."""
    metadata = (table.schema.metadata or {}).get(b"huggingface")
    if metadata is None:
        return None
    try:
        feature = parse_json(metadata).get("info", {}).get("features", {}).get(column, {})
        names = feature.get("names")
    except (NotParsableError, AttributeError):
        return None  # some other program's, or damaged: the ids have to do
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    return names


def _checked(table: pa.Table, origin: str) -> pa.Table:
    """The table, once its offsets are known to lie within its data.

    Raises:
        DataFormatError: They do not, or a column's name is not UTF-8.
    """
    import pyarrow as pa

    try:
        _ = table.column_names
        for column in table.columns:
            # As bytes, so that a text that is not UTF-8 is found later, with its row.
            texts = pa.types.is_string(column.type)
            (column.cast(pa.binary()) if texts else column).validate(full=True)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        refuse(f"{origin}: damaged: {_one_line(error)}")
    return table


def _check_parts(files: Sequence[Path]) -> None:
    parts = [match for file in files if (match := _SHARD.search(file.stem))]
    if not parts:
        return
    promised = {int(match[2]) for match in parts}
    if len(parts) != len(files) or len(promised) > 1 or promised != {len(parts)}:
        raise DataNotFoundError(
            f"{files[0].parent}: {len(files)} of the {max(promised)} parts that the file names "
            f"promise, among them {files[0].name}",
            "fetch the missing parts, and keep no other version beside them",
        )


def _says_split(state: Path, split: str) -> bool:
    try:
        return bool(parse_json(state.read_bytes()).get("_split") == split)
    except (OSError, ValueError, AttributeError):
        return False


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
