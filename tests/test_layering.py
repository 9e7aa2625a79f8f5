"""A lower package must not know a higher one: calib_data < export < deploy."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = {"calib_data": {"export", "deploy"}, "export": {"deploy"}}


def imported_packages(source: str) -> set[str]:
    """Top-level names that a module imports anywhere, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("package", FORBIDDEN)
def test_package_imports_nothing_above_it(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert len(files) > 5
    offences = {
        str(file.relative_to(ROOT)): found
        for file in files
        if (found := imported_packages(file.read_text(encoding="utf-8")) & FORBIDDEN[package])
    }
    assert offences == {}


def test_imports_inside_functions_are_seen():
    source = "def f():\n    from deploy.cli import app\n    import export.qdq as q\n"
    assert imported_packages(source) == {"deploy", "export"}
