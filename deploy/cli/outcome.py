"""How a command that judges a build ends: tables or JSON, and the exit code of the gates."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer


def show_outcome(
    results: Mapping[str, Any], out: Path, *, as_json: bool, built: bool = False
) -> None:
    """Print results.json, or its tables, and exit with 3 where a gate does not hold.

    Args:
        results: The content of results.json.
        out: The build folder.
        as_json: Whether to print JSON; the gates that do not hold then stand on standard error.
        built: Whether a build ends here, which says so where it had nothing to do.

    Raises:
        typer.Exit: A gate does not hold.
    """
    from deploy.cli.output import error_console, print_json, result_console
    from deploy.cli.tables import gate_line, print_results

    failed = [gate for gate in results["gates"] if not gate["passed"]]
    if as_json:
        print_json(results)
        for gate in failed:
            error_console().print(gate_line(gate), soft_wrap=True)
    else:
        print_results(results, result_console())
        if built and nothing_ran(out):
            typer.echo("\nnothing had to be done: no input, option or tool has changed")
        typer.echo(f"\nreport: {out / 'report.html'}")
    if failed:
        raise typer.Exit(3)


def nothing_ran(out: Path) -> bool:
    """Whether the last build of a folder took over every stage."""
    from deploy.artifacts import BuildFolder, read_manifest

    stages = read_manifest(BuildFolder(out))["stages"].values()
    return all(stage["reused"] for stage in stages)
