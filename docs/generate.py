"""Write docs/commands.md from the command line itself: `python docs/generate.py [--check]`."""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import typer.main

from deploy.cli.app import app

PAGE = Path(__file__).with_name("commands.md")

_HEAD = """\
# Commands

What `deploy COMMAND --help` says, on one page. `make docs` writes it from the command line, and a
test compares the two.
"""

_EXAMPLES = "Examples:"


def commands_page() -> str:
    """The page, as it should be committed."""
    root: Any = typer.main.get_command(app)
    parts = [_HEAD, "\n".join(_contents(root)), "\n".join(_options(root))]
    parts += ["\n".join(_command(name, command)) for name, command in root.commands.items()]
    return "\n".join(parts)


def _contents(root: Any) -> Iterator[str]:
    yield "| command | |"
    yield "|---|---|"
    for name, command in root.commands.items():
        yield f"| [`deploy {name}`](#deploy-{name}) | {_cell(_summary(command))} |"
    yield ""


def _command(name: str, command: Any) -> Iterator[str]:
    text, _, examples = inspect.cleandoc(command.help).partition(_EXAMPLES)
    yield f"## deploy {name}"
    yield ""
    yield _linked(text.strip())
    yield ""
    lines = [line.strip() for line in examples.splitlines() if line.strip()]
    if lines:
        # A line that is not a command of its own continues the one above.
        script = re.sub(r" *\\?\n(?!deploy )", " \\\\\n    ", "\n".join(lines))
        yield "<!-- needs: a model or a build -->"
        yield "```bash"
        yield script
        yield "```"
        yield ""
    yield from _options(command)


def _options(command: Any) -> Iterator[str]:
    """Tables of arguments and options; whatever shells complete is none of them."""
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option"]
    if arguments:
        yield "| argument | |"
        yield "|---|---|"
        for each in arguments:
            name = each.name.upper() + (" …" if each.nargs == -1 else "")
            yield f"| `{name}` | {_cell(each.help)} |"
        yield ""
    yield "| option | default | |"
    yield "|---|---|---|"
    for each in options:
        yield f"| `{_spelled(each)}` | {_cell(_default(each))} | {_cell(each.help)} |"
    yield ""


def _spelled(option: Any) -> str:
    name = ", ".join(option.opts)
    if option.is_flag:
        return name
    return f"{name} {option.metavar or '…'}"


def _default(option: Any) -> str:
    if isinstance(option.show_default, str):
        return option.show_default
    if isinstance(option.default, Enum):
        choices = ", ".join(str(each.value) for each in type(option.default))
        return f"{option.default.value} (of {choices})"
    shown = option.show_default and not option.is_flag and option.default is not None
    return str(option.default) if shown else ""


def _summary(command: Any) -> str:
    paragraph, _, _ = inspect.cleandoc(command.help).partition("\n\n")
    return " ".join(paragraph.split())


def _cell(text: str | None) -> str:
    return _linked((text or "").replace("|", "\\|"))


def _linked(text: str) -> str:
    """Other pages, which the command line can only name."""
    return re.sub(r"docs/([\w-]+\.md)", r"[\1](\1)", text)


def main() -> None:
    """Write the page, or say that it is out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if it differs")
    check = parser.parse_args().check
    page = commands_page()
    if not check:
        PAGE.write_text(page, encoding="utf-8")
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != page:
        sys.exit(f"{PAGE} is out of date; run `make docs`")


if __name__ == "__main__":
    main()
