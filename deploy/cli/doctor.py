"""`deploy doctor`: what works on this machine, and what would add the rest."""

from __future__ import annotations

from typing import Annotated

import typer


def command(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show versions, TensorRT flavours and GPUs."""
    from deploy.cli.output import only_results_on_stdout, print_json, result_console
    from deploy.engine.builder import installed_flavours
    from deploy.environment import describe_environment, gpu_names, installed_versions

    with only_results_on_stdout():
        packages = installed_versions()
        found = {
            **describe_environment(),
            "packages": packages,
            "tensorrt_flavours": [flavour.value for flavour in installed_flavours()],
        }
    if as_json:
        print_json(found)
        return
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    for key in ("python", "platform", "cpu", "cores"):
        table.add_row(key, str(found[key]))
    table.add_row("GPU", "; ".join(gpu_names()) or "none: engines are built, not run")
    for name, version in packages.items():
        table.add_row(name, version or "not installed")
    result_console().print(table)
    if not found["tensorrt_flavours"]:
        typer.echo("no TensorRT: pip install tensorrt-rtx-cu13 builds engines anywhere")
