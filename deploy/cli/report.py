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
    from deploy.artifacts import BuildFolder, hold_folder, read_results, replace_files
    from deploy.cli.bench_tables import print_benchmark
    from deploy.cli.output import print_json, result_console
    from deploy.cli.tables import print_results
    from deploy.report.writing import rendered_reports, write_reports

    folder = BuildFolder(Path(out))
    results = read_results(folder)
    with hold_folder(folder.path):
        if folder.manifest.is_file():
            replace_files(folder, rendered_reports(folder, results))
        else:
            write_reports(folder, results)
    if as_json:
        print_json(results)
        return
    console = result_console()
    print_results(results, console)
    for backend in dict.fromkeys(row["sweep"] for row in results["latency"]):
        console.print()
        print_benchmark(results, backend, console)
    typer.echo(f"\nreport: {folder.report_html}")
