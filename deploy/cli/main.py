"""The `deploy` command."""

from __future__ import annotations

import sys
from importlib.metadata import version as package_version
from typing import Annotated

import typer

from calib_data.errors import ToolchainError
from deploy.cli import build, doctor, report

app = typer.Typer(
    name="deploy",
    help="From a Hugging Face BERT checkpoint to a checked FP8 TensorRT engine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"deploy {package_version('bert-trt-deploy')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """From a Hugging Face BERT checkpoint to a checked FP8 TensorRT engine."""


app.command("build")(build.command)
app.command("report")(report.command)
app.command("doctor")(doctor.command)


def main() -> None:
    """Run the command line; a user's mistake ends in two lines, never in a traceback."""
    try:
        app()
    except ToolchainError as error:
        typer.secho(f"error: {error.message}", fg="red", err=True)
        typer.echo(f"try: {error.remedy}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
