"""GLUE's own tab-separated files, with all that is peculiar to them.

A field never carries quoting: quotes in these files are text and often unbalanced. A row ends at a
line feed alone, whatever other separators its texts contain. Byte order marks, carriage returns
before the line feed and spaces around header names and labels do not count; texts are verbatim.
Fields beyond the columns are left aside and counted, and so are blank lines, as the hub's own
builder of the data set does.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from calib_data.sources.files import read_text
from calib_data.sources.rows import Repairs, Row, refuse, text_examples
from calib_data.tasks import Split, Task, TextExample

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class TsvLayout:
    """How GLUE writes one task.

    Attributes:
        texts: Headers of the text columns, which differ from the hub's column names.
        label: Header of the label column.
        header: All columns, where the file has no header line.
        dev: File of the development split.
        skips_broken: Whether rows without one of those columns, or with an empty label, are known
            in the official files: they are left out and counted. Elsewhere they are an error.
    """

    texts: tuple[str, ...]
    label: str = "label"
    header: tuple[str, ...] | None = None
    dev: str = "dev.tsv"
    skips_broken: bool = False


_SENTENCES = ("sentence1", "sentence2")

_LAYOUTS = {
    "cola": TsvLayout(
        ("sentence",), "label", header=("source", "label", "authors_label", "sentence")
    ),
    "sst2": TsvLayout(("sentence",)),
    "mrpc": TsvLayout(("#1 String", "#2 String"), "Quality"),
    "stsb": TsvLayout(_SENTENCES, "score"),
    "qqp": TsvLayout(("question1", "question2"), "is_duplicate", skips_broken=True),
    "mnli": TsvLayout(_SENTENCES, "gold_label", dev="dev_matched.tsv", skips_broken=True),
    "mnli-mm": TsvLayout(_SENTENCES, "gold_label", dev="dev_mismatched.tsv", skips_broken=True),
    "qnli": TsvLayout(("question", "sentence")),
    "rte": TsvLayout(_SENTENCES),
    "wnli": TsvLayout(_SENTENCES),
}

_MSR_TRAIN, _MSR_TEST = "msr_paraphrase_train.txt", "msr_paraphrase_test.txt"
_MSR_DEV_IDS = ("dev_ids.tsv", "mrpc_dev_ids.tsv")


def tsv_name(task: Task, split: Split) -> str:
    """Name of a split's file."""
    return _LAYOUTS[task.name].dev if split is Split.DEV else "train.tsv"


def read_tsv(task: Task, split: Split, folder: Path) -> tuple[TextExample, ...] | None:
    """Read a split from a folder in GLUE's layout.

    Microsoft's own files of MRPC are read where GLUE's are not there. With GLUE's list of
    development ids (`dev_ids.tsv` or `mrpc_dev_ids.tsv`) beside them they give GLUE's splits.
    Without it, the published test file, which has labels, stands in for the development split.

    Returns:
        The examples; None where the folder does not hold the layout.

    Raises:
        DataFormatError: A file is not what the layout promises.
    """
    layout = _LAYOUTS[task.name]
    file = folder / tsv_name(task, split)
    if file.is_file():
        repairs = Repairs(str(file))
        rows: Iterator[Row] = (row for _, row in _rows(layout, file, repairs))
    elif task.name == "mrpc" and (folder / _MSR_TRAIN).is_file():
        file = folder / _MSR_TRAIN
        repairs = Repairs(str(file))
        rows = _msr_rows(layout, split, folder, repairs)
    else:
        return None
    examples = text_examples(task, rows, repairs)
    repairs.log()
    return examples


def _rows(layout: TsvLayout, file: Path, repairs: Repairs) -> Iterator[tuple[list[str], Row]]:
    """All fields of each row, and those that the task wants of it."""
    # A plain split, not the csv module: see the module's docstring.
    lines = read_text(file).rstrip("\r\n").split("\n")
    first = 1
    header = layout.header
    if header is None:
        header = tuple(name.strip() for name in lines[0].split("\t"))
        first = 2
    for name in (*layout.texts, layout.label):
        if name not in header:
            refuse(f"{file}:1: no column '{name}' (found: {', '.join(header)})")
    text_columns = [header.index(name) for name in layout.texts]
    label_column = header.index(layout.label)
    needed = 1 + max(*text_columns, label_column)
    for number, line in enumerate(lines[first - 1 :], start=first):
        where = f"{file}:{number}"
        if not line.strip("\r"):
            repairs.add("blank lines are left out", where)
            continue
        fields = line.removesuffix("\r").split("\t")
        if len(fields) < needed or not fields[label_column].strip():
            if layout.skips_broken:
                repairs.add("rows without a text or a label are left out", where)
                continue
            if len(fields) < needed:
                refuse(f"{where}: {len(fields)} fields, expected {len(header)}")
        if len(fields) > len(header):
            repairs.add(f"fields beyond the {len(header)} columns are left aside", where)
        texts = tuple(fields[column] for column in text_columns)
        yield fields, Row(texts, fields[label_column], where)


def _msr_rows(layout: TsvLayout, split: Split, folder: Path, repairs: Repairs) -> Iterator[Row]:
    lists = [folder / name for name in _MSR_DEV_IDS if (folder / name).is_file()]
    if not lists:
        file = folder / (_MSR_TEST if split is Split.DEV else _MSR_TRAIN)
        if not file.is_file():
            refuse(f"{folder}: {_MSR_TRAIN}, but neither {_MSR_TEST} nor {_MSR_DEV_IDS[0]}")
        if split is Split.DEV:
            _LOG.warning(
                "%s has no %s: MRPC is judged on %s, not on GLUE's development set",
                folder,
                _MSR_DEV_IDS[0],
                _MSR_TEST,
            )
        yield from (row for _, row in _rows(layout, file, repairs))
        return
    listed = {tuple(line.split()) for line in read_text(lists[0]).splitlines()}
    for fields, row in _rows(layout, folder / _MSR_TRAIN, repairs):
        in_dev = (fields[1].strip(), fields[2].strip()) in listed
        if in_dev is (split is Split.DEV):
            yield row
