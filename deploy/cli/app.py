"""The `deploy` command's subcommands. Nothing here imports what a `--help` does not need."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from typer.exceptions import TyperException

from calib_data.errors import UsageError
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


def run() -> int:
    """Run this process' command line.

    Returns:
        The exit code; 130 after Ctrl-C.

    Raises:
        UsageError: It is not one: no such command or option, or not a value of that option.
        ToolchainError: The command failed.
    """
    try:
        code: int | None = app(prog_name="deploy", standalone_mode=False)
    except typer.Abort as error:  # what typer makes of a file that ends too early
        raise error.__cause__ or error from None
    except TyperException as error:
        arguments = sys.argv[1:]
        if not arguments:
            return error.exit_code  # typer has printed the help by now
        # typer's own panel takes rich's Markdown and Pygments, a tenth of a second.
        message = error.format_message().rstrip(".")
        known = {command.name for command in app.registered_commands}
        command = " ".join(["deploy", *(name for name in arguments[:1] if name in known)])
        raise UsageError(f"{message[:1].lower()}{message[1:]}", f"`{command} --help`") from error
    return code or 0
