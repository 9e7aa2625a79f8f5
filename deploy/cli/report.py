"""`deploy report`: render the report again from results.json."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    out: Annotated[str, typer.Argument(help="Build folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print results.json.")] = False,
) -> None:
    """Render report.md of a build folder again, and print its tables."""
    from deploy.artifacts import BuildFolder, read_results, write_text
    from deploy.cli.bench_tables import print_benchmark
    from deploy.cli.output import print_json, result_console
    from deploy.cli.tables import print_results
    from deploy.report.markdown import render_markdown

    folder = BuildFolder(Path(out))
    results = read_results(folder)
    write_text(folder.report, render_markdown(results))
    if as_json:
        print_json(results)
        return
    console = result_console()
    print_results(results, console)
    for backend in dict.fromkeys(row["sweep"] for row in results["latency"]):
        console.print()
        print_benchmark(results, backend, console)
