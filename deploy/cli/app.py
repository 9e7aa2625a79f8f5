"""The `deploy` command's subcommands. Nothing here imports what a `--help` does not need."""

from __future__ import annotations

from typing import Annotated

import typer

from deploy.cli import (
    bench,
    build,
    check,
    compare,
    doctor,
    evaluate,
    inspect,
    report,
    triton,
    tune,
    verify,
)

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
        from importlib.metadata import version as package_version

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
app.command("evaluate")(evaluate.command)
app.command("bench")(bench.command)
app.command("tune")(tune.command)
app.command("inspect")(inspect.command)
app.command("check")(check.command)
app.command("report")(report.command)
app.command("compare")(compare.command)
app.command("verify")(verify.command)
app.command("triton")(triton.command)
app.command("doctor")(doctor.command)
