"""`deploy triton`: a model repository for Triton Inference Server."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from deploy.cli.options import LogFile, LogLevelOption, Number, Quiet, Text
from deploy.cli.output import LogLevel, working


def command(
    out: Annotated[str, typer.Argument(help="Build folder.")],
    repository: Annotated[
        Text,
        typer.Option(help="Folder for Triton to read; new, or of this command.", metavar="DIR"),
    ] = None,
    name: Annotated[
        Text, typer.Option(help="What the models' names start with.", show_default="the task's")
    ] = None,
    precision: Annotated[
        Text,
        typer.Option(
            help="Any of fp32,fp16,int8,fp8, comma-separated; the first is the default one.",
            show_default="all built",
        ),
    ] = None,
    backend: Annotated[
        Text,
        typer.Option(
            help="What runs them in the server: tensorrt (plans) or onnxruntime (ONNX models).",
            show_default="tensorrt",
        ),
    ] = None,
    text: Annotated[
        bool, typer.Option("--text", help="Add a model that takes texts and gives answers.")
    ] = False,
    max_queue_delay: Annotated[
        Number,
        typer.Option(
            help="Microseconds that a request may wait for others to join it.",
            show_default="half the measured p50; 0 if none",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    quiet: Quiet = False,
    log_level: LogLevelOption = LogLevel.WARNING,
    log_file: LogFile = None,
) -> None:
    """Write a Triton model repository for the models of a build folder.

    Batch sizes to wait for come from `deploy bench`; docs/serving.md explains all the rest.

    Examples:
      deploy triton out/sst2 --repository models --text

      deploy triton out/demo --repository models --backend onnxruntime
    """
    options: dict[str, Any] = {
        "out": out,
        "repository": repository,
        "name": name,
        "precision": precision,
        "backend": backend,
        "text": text,
        "max_queue_delay": max_queue_delay,
    }
    from deploy.triton.config import triton_config_from_dict

    config = triton_config_from_dict(options)
    with working(quiet=quiet, log_level=log_level, log_file=log_file) as progress:
        from deploy.triton.pipeline import write_repository

        written = write_repository(config, progress)
    _show(written, as_json=as_json)


def _show(written: dict[str, Any], *, as_json: bool) -> None:
    from deploy.cli.output import print_json, result_console
    from deploy.cli.triton_tables import print_repository

    if as_json:
        print_json(written)
        return
    print_repository(written, result_console())
