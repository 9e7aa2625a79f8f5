"""A task's labelled examples, from a local copy, from the Hugging Face hub, or built in."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from calib_data.errors import DataFormatError, DataNotFoundError, NetworkError
from calib_data.tasks import Examples, Head, HubDataset, QuestionExample, Split, Task, TextExample

T = TypeVar("T")

_REMEDY = "mend what is named, or fetch the data set again from where it is published"


@dataclass(frozen=True)
class _TsvLayout:
    """Header names in a GLUE file, which differ from the hub's column names."""

    texts: tuple[str, ...]
    label: str


_TSV_LAYOUTS = {
    "sst2": _TsvLayout(texts=("sentence",), label="label"),
    "mrpc": _TsvLayout(texts=("#1 String", "#2 String"), label="Quality"),
}


def load_examples(task: Task, split: Split, data_dir: Path | None) -> Examples:
    """Read every example of a split, in the order of its source.

    Texts are passed on verbatim. SST-2 lines end in a space, and the hub's copy keeps it: a
    WordPiece tokenizer ignores it, a byte-level one makes a token of it, so stripping it would feed
    such models something else than the reference scripts do.

    Args:
        task: What to load.
        split: Which part of it.
        data_dir: Folder with a local copy in the benchmark's own layout, or None for the hub. A
            task that exists only in this package ignores it.

    Returns:
        At least one example.

    Raises:
        DataNotFoundError: The folder, a file in it, or the hub's data set does not exist.
        DataFormatError: The content is not what the layout promises.
        NetworkError: The hub does not answer.
    """
    if task.hub is None:
        from calib_data.demo import corpus

        return corpus.train_examples() if split is Split.TRAIN else corpus.dev_examples()
    examples: Examples
    if data_dir is None:
        origin = f"hub data set '{task.hub.path}'"
        rows = _hub_rows(task.hub, split)
        if task.head is Head.QUESTION_ANSWERING:
            examples = tuple(_hub_question(row, origin) for row in rows)
        else:
            examples = tuple(_hub_texts(task, row, index, origin) for index, row in enumerate(rows))
    else:
        files = _local_files(task, split, data_dir)
        origin = str(files[0])
        if task.head is Head.QUESTION_ANSWERING:
            examples = tuple(question for file in files for question in _read_squad(file))
        else:
            examples = tuple(_read_tsv(task, files[0]))
    if not examples:
        _refuse(f"{origin}: the {split.value} split has no examples")
    return examples


def _refuse(message: str) -> NoReturn:
    raise DataFormatError(message, _REMEDY)


def _local_files(task: Task, split: Split, data_dir: Path) -> tuple[Path, ...]:
    """Find the files of a split below `data_dir`, which may be the data set's own folder."""
    if task.head is Head.QUESTION_ANSWERING:
        # The training file is often kept in parts; the whole one wins where both lie side by side.
        patterns: tuple[str, ...] = (f"{split.value}-v1.1.json",)
        if split is Split.TRAIN:
            patterns += (f"{split.value}-v1.1-*.json",)
    else:
        patterns = (f"{split.value}.tsv",)
    wanted = " or ".join(patterns)
    if not data_dir.is_dir():
        raise DataNotFoundError(
            f"{data_dir}: no such folder",
            f"give --data-dir a folder that holds {task.folder}/{wanted}",
        )
    places = (data_dir / task.folder, data_dir / Path(task.folder).name, data_dir)
    for place in places:
        for pattern in patterns:
            files = tuple(sorted(file for file in place.glob(pattern) if file.is_file()))
            if files:
                return files
    raise DataNotFoundError(
        f"{data_dir}: no {wanted} of task '{task.name}' there, in {task.folder} or in "
        f"{Path(task.folder).name}",
        f"give --data-dir a folder that holds {task.folder}/{wanted}",
    )


def _read_text(file: Path) -> str:
    content = file.read_bytes()
    try:
        return content.decode("utf-8-sig")  # MRPC's files start with a byte order mark
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        _refuse(f"{file}:{line}: not UTF-8 (byte 0x{content[error.start]:02x})")


def _read_tsv(task: Task, file: Path) -> Iterator[TextExample]:
    # A plain split, not the csv module: GLUE's quotes are unbalanced text, never quoting, and only
    # a line feed ends a row, whatever other separators a text contains.
    lines = _read_text(file).rstrip("\r\n").split("\n")
    header = lines[0].removesuffix("\r").split("\t")
    layout = _TSV_LAYOUTS[task.name]
    for name in (*layout.texts, layout.label):
        if name not in header:
            _refuse(f"{file}:1: no column '{name}' (found: {', '.join(header)})")
    text_columns = [header.index(name) for name in layout.texts]
    label_column = header.index(layout.label)
    for number, line in enumerate(lines[1:], start=2):
        where = f"{file}:{number}"
        fields = line.removesuffix("\r").split("\t")
        if len(fields) != len(header):
            _refuse(f"{where}: {len(fields)} fields, the header has {len(header)}")
        yield TextExample(
            id=str(number - 2),
            texts=tuple(_filled(fields[column], where) for column in text_columns),
            label=_label(task, fields[label_column], where),
        )


def _filled(text: object, where: str) -> str:
    if not isinstance(text, str):
        _refuse(f"{where}: {type(text).__name__} where a text is expected")
    if not text.strip():
        _refuse(f"{where}: empty text")
    try:
        text.encode("utf-8")  # JSON can spell half a surrogate pair, which no tokenizer takes
    except UnicodeEncodeError:
        _refuse(f"{where}: text with half a surrogate pair")
    return text


def _label(task: Task, value: object, where: str) -> int:
    ids = {str(index): index for index in range(len(task.labels))}
    if str(value) not in ids:
        # The hub writes -1 where the benchmark keeps its labels secret.
        _refuse(f"{where}: label '{value}' is not one of {', '.join(ids)}")
    return ids[str(value)]


def _read_squad(file: Path) -> Iterator[QuestionExample]:
    try:
        content = json.loads(_read_text(file))
    except json.JSONDecodeError as error:
        _refuse(f"{file}:{error.lineno}: not JSON ({error.msg})")
    articles = _member(content, "data", list, str(file))
    for a, article in enumerate(articles):
        at = f"{file}: article {a}"
        for p, paragraph in enumerate(_member(article, "paragraphs", list, at)):
            at_paragraph = f"{at}, paragraph {p}"
            context = _member(paragraph, "context", str, at_paragraph)
            for q, question in enumerate(_member(paragraph, "qas", list, at_paragraph)):
                identity = _member(question, "id", str, f"{at_paragraph}, question {q}")
                where = f"{file}: question '{identity}'"
                answers = _member(question, "answers", list, where)
                yield _question(
                    identity,
                    _member(question, "question", str, where),
                    context,
                    [_member(answer, "text", str, where) for answer in answers],
                    [_member(answer, "answer_start", int, where) for answer in answers],
                    where,
                )


def _member(node: object, name: str, kind: type[T], where: str) -> T:
    value = node.get(name) if isinstance(node, Mapping) else None
    if not isinstance(value, kind):
        _refuse(f"{where}: no '{name}' of type {kind.__name__}")
    return value


def _question(
    identity: str,
    question: object,
    context: object,
    answers: Iterable[str],
    starts: Iterable[int],
    where: str,
) -> QuestionExample:
    text = _filled(context, where)
    example = QuestionExample(
        identity, _filled(question, where), text, tuple(answers), tuple(starts)
    )
    if not example.answers:
        _refuse(f"{where}: no answers (SQuAD v2 is not supported)")
    for answer, start in zip(example.answers, example.answer_starts, strict=True):
        if not answer or start < 0 or not text.startswith(answer, start):
            _refuse(f"{where}: the context has no '{answer}' at character {start}")
    return example


def _hub_texts(task: Task, row: Mapping[str, Any], index: int, origin: str) -> TextExample:
    where = f"{origin}, row {index}"
    return TextExample(
        id=str(index),
        texts=tuple(_filled(row.get(column), where) for column in task.columns),
        label=_label(task, row.get("label"), where),
    )


def _hub_question(row: Mapping[str, Any], origin: str) -> QuestionExample:
    identity = _member(row, "id", str, origin)
    where = f"{origin}, question '{identity}'"
    answers = _member(row, "answers", dict, where)
    return _question(
        identity,
        row.get("question"),
        row.get("context"),
        _member(answers, "text", list, where),
        _member(answers, "answer_start", list, where),
        where,
    )


def _hub_rows(hub: HubDataset, split: Split) -> Iterable[Mapping[str, Any]]:
    import datasets
    from datasets.exceptions import DatasetNotFoundError, DatasetsError

    name = hub.dev_split if split is Split.DEV else "train"
    what = f"hub data set '{hub.path}'" + (f", configuration '{hub.config}'" if hub.config else "")
    remedy = "use --data-dir with a local copy"
    try:
        with _without_retry_log(), _without_retries(hub):
            rows: Iterable[Mapping[str, Any]] = datasets.load_dataset(
                hub.path, hub.config, split=name
            )
    # ValueError is how `datasets` reports a configuration or split that is not there.
    except (DatasetNotFoundError, ValueError) as error:
        raise DataNotFoundError(f"{what}, split '{name}': {_one_line(error)}", remedy) from error
    except (OSError, DatasetsError) as error:
        raise NetworkError(
            f"{what} could not be downloaded: {_one_line(error)}", f"connect, or {remedy}"
        ) from error
    return rows


@contextmanager
def _without_retries(hub: HubDataset) -> Iterator[None]:
    """Ask the hub once; where it does not answer, let `datasets` look into its cache alone.

    The hub client itself tries six times, for over 20 seconds, before it gives up.
    """
    import datasets
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    try:
        huggingface_hub.HfApi().dataset_info(hub.path, timeout=10)
        reachable = True
    except HfHubHTTPError:
        reachable = True  # it answers; what it has to say comes with the download
    except Exception:  # the client's transport errors have no common base that it exports
        reachable = False
    places: tuple[Any, ...] = (huggingface_hub.constants, datasets.config)
    before = [place.HF_HUB_OFFLINE for place in places]
    try:
        if not reachable:
            for place in places:
                place.HF_HUB_OFFLINE = True
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def _without_retry_log() -> Iterator[None]:
    """Keep the hub client's warnings of each retry away from the one line that sums them up."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
