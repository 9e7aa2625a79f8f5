"""SQuAD v1.1 as its own JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from calib_data.parsing import NotParsableError, parse_json
from calib_data.sources.files import read_text
from calib_data.sources.rows import question_example, refuse, unique_questions
from calib_data.tasks import QuestionExample, Split

T = TypeVar("T")


def squad_patterns(split: Split) -> tuple[str, ...]:
    """File names of a split, the preferred one first."""
    whole = f"{split.value}-v1.1.json"
    # The training file is often kept in parts; the whole one wins where both lie side by side.
    return (whole, f"{split.value}-v1.1-*.json") if split is Split.TRAIN else (whole,)


def read_squad(split: Split, folder: Path) -> tuple[QuestionExample, ...] | None:
    """Read a split from a folder with SQuAD's JSON files.

    Returns:
        The questions; None where the folder has no such file.

    Raises:
        DataFormatError: A file is not what the layout promises, or two questions share an id.
    """
    for pattern in squad_patterns(split):
        files = sorted(file for file in folder.glob(pattern) if file.is_file())
        if files:
            return unique_questions(
                (question for file in files for question in _questions(file)),
                str(files[0]) if len(files) == 1 else str(folder / pattern),
            )
    return None


def member(node: object, name: str, kind: type[T], where: str) -> T:
    """A value of a JSON object.

    Raises:
        DataFormatError: It is missing, or of another type.
    """
    value = node.get(name) if isinstance(node, Mapping) else None
    if not isinstance(value, kind):
        refuse(f"{where}: no '{name}' of type {kind.__name__}")
    return value


def _questions(file: Path) -> Iterator[QuestionExample]:
    try:
        content = parse_json(read_text(file))
    except NotParsableError as error:
        where = f"{file}:{error.line}" if error.line else str(file)
        refuse(f"{where}: not JSON ({error})")
    articles = member(content, "data", list, str(file))
    for a, article in enumerate(articles):
        at = f"{file}: article {a}"
        for p, paragraph in enumerate(member(article, "paragraphs", list, at)):
            at_paragraph = f"{at}, paragraph {p}"
            context = member(paragraph, "context", str, at_paragraph)
            for q, question in enumerate(member(paragraph, "qas", list, at_paragraph)):
                identity = member(question, "id", str, f"{at_paragraph}, question {q}")
                where = f"{file}: question '{identity}'"
                answers = member(question, "answers", list, where)
                yield question_example(
                    identity,
                    member(question, "question", str, where),
                    context,
                    [member(answer, "text", str, where) for answer in answers],
                    [member(answer, "answer_start", int, where) for answer in answers],
                    where,
                )
