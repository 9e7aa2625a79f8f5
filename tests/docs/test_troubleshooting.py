"""The messages that docs/troubleshooting.md explains are messages of the program."""

from __future__ import annotations

import ast
import re
from functools import lru_cache

import pytest
from pages import ROOT

PAGE = ROOT / "docs/troubleshooting.md"
QUOTED = re.findall(r"^### `(.+)`$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
VARIES = "…"

# What logging fills in.
_PLACEHOLDER = re.compile(r"%\.?\d*[sdf]")


@lru_cache(maxsize=1)
def messages() -> frozenset[str]:
    """Every text in the three packages, with … for what is filled in."""
    return frozenset(
        text
        for package in ("calib_data", "export", "deploy")
        for file in (ROOT / package).rglob("*.py")
        for text in texts(ast.parse(file.read_text(encoding="utf-8")))
    )


def texts(tree: ast.AST) -> list[str]:
    """The texts of a module, its docstrings left out."""
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    found = []
    for node in ast.walk(tree):
        if id(node) in docstrings:
            continue
        if isinstance(node, ast.JoinedStr):
            parts = (
                str(part.value) if isinstance(part, ast.Constant) else VARIES
                for part in node.values
            )
            found.append("".join(parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(_PLACEHOLDER.sub(VARIES, node.value))
    return found


def test_there_are_headings_to_check():
    assert len(QUOTED) > 40
    assert len(set(QUOTED)) == len(QUOTED)


@pytest.mark.parametrize("quoted", QUOTED)
def test_what_is_explained_is_what_the_program_says(quoted):
    assert any(quoted in message for message in messages())


def test_text_that_is_filled_in_is_seen():
    source = "'described'\nx = f'no {what} in ' f'{where}'\nlog('%d of %.0f', 1, 2)\n"
    found = set(texts(ast.parse(source)))
    assert found >= {"no … in …", "… of …"}
    assert "described" not in found
