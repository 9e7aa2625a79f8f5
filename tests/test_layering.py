"""A lower package must not know a higher one: calib_data < export < deploy (architecture.md)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = {"calib_data": {"export", "deploy"}, "export": {"deploy"}}


# All that a session, a plan or a layer report takes of the package around it.
ENGINE_KNOWS = {
    "deploy",
    "deploy.artifacts",
    "deploy.engine",
    "deploy.environment",
    "deploy.errors",
    "deploy.rebuild",  # what the remedy of a plan that does not load is
    "deploy.structure",
}


def imported_modules(source: str) -> set[str]:
    """Modules, or things in them, that a module imports anywhere, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def imported_packages(source: str) -> set[str]:
    """The first names of those."""
    return {name.partition(".")[0] for name in imported_modules(source)}


def imported_rooms(source: str) -> set[str]:
    """The first two names of those in this package: deploy.engine, deploy.report."""
    return {
        ".".join(name.split(".")[:2])
        for name in imported_modules(source)
        if name.partition(".")[0] == "deploy"
    }


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


def test_engines_know_nothing_of_what_is_done_with_them():
    offences = {
        file.name: found
        for file in (ROOT / "deploy/engine").rglob("*.py")
        if (found := imported_rooms(file.read_text(encoding="utf-8")) - ENGINE_KNOWS)
    }
    assert offences == {}


def test_nothing_but_the_command_line_imports_the_command_line():
    offences = [
        str(file.relative_to(ROOT))
        for file in (ROOT / "deploy").rglob("*.py")
        if "cli" not in file.relative_to(ROOT).parts
        and "deploy.cli" in imported_rooms(file.read_text(encoding="utf-8"))
    ]
    assert offences == []


def test_imports_inside_functions_are_seen():
    source = "def f():\n    from deploy.cli import app\nfrom deploy import api\nimport export.qdq\n"
    assert imported_packages(source) == {"deploy", "export"}
    assert imported_rooms(source) == {"deploy.cli", "deploy.api"}
