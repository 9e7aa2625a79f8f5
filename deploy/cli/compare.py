"""`deploy compare`: several builds side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deploy.cli.options import Text


def command(
    builds: Annotated[list[str], typer.Argument(help="Build folders, two or more.")],
    out: Annotated[
        Text,
        typer.Option(help="Write the tables into this .html or .md file too.", show_default="none"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Put builds side by side: accuracy, fusion, sizes, and latency where all measured it.

    Warns of what does not compare: another task, other examples, another processor.

    Examples:
      deploy compare out/sst2-fp8 out/sst2-int8

      deploy compare out/a out/b out/c --out compare.html
    """
    from calib_data.errors import UsageError

    if len(builds) < 2:
        raise UsageError("one build has nothing to be compared with", "name two folders or more")
    from deploy.artifacts import BuildFolder, read_results, write_text
    from deploy.cli.compare_tables import print_comparison
    from deploy.cli.output import print_json, result_console
    from deploy.report.builds import compare_builds
    from deploy.report.comparison import RENDERERS

    render = None if out is None else RENDERERS.get(Path(out).suffix)
    if out is not None and render is None:
        raise UsageError(f"--out is '{out}'", f"give a name that ends in {' or '.join(RENDERERS)}")
    comparison = compare_builds(builds, [read_results(BuildFolder(Path(each))) for each in builds])
    if out is not None and render is not None:
        write_text(Path(out), render(comparison))
    if as_json:
        print_json(comparison)
        return
    print_comparison(comparison, result_console())
    if out is not None:
        typer.echo(f"\ncomparison: {out}")
