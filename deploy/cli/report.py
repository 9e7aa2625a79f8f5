"""`deploy report`: render the reports again from results.json."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    out: Annotated[str, typer.Argument(help="Build folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print results.json.")] = False,
) -> None:
    """Render report.html and report.md of a build folder again, and print their tables.

    docs/reading-the-report.md explains them.
    """
    from deploy.artifacts import BuildFolder
    from deploy.cli.bench_tables import print_benchmark
    from deploy.cli.output import print_json, result_console
    from deploy.cli.tables import print_results
    from deploy.report.writing import report_folder

    folder = BuildFolder(Path(out))
    results = report_folder(folder)
    if as_json:
        print_json(results)
        return
    console = result_console()
    print_results(results, console)
    for backend in dict.fromkeys(row["sweep"] for row in results["latency"]):
        console.print()
        print_benchmark(results, backend, console)
    typer.echo(f"\nreport: {folder.report_html}")
