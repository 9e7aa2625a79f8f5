"""`deploy check`: what does not need a GPU, before one is rented."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy.cli.options import LogFile, LogLevelOption, MaxBatch, Quiet, Text
from deploy.cli.output import LogLevel, working

if TYPE_CHECKING:
    from rich.console import Console


def command(
    model: Annotated[str, typer.Argument(help="ONNX file.")],
    target: Annotated[
        Text,
        typer.Option(help="Compute capabilities, e.g. sm89,sm120.", show_default="sm89"),
    ] = None,
    buckets: Annotated[
        Text,
        typer.Option(
            help="Sequence lengths, one optimization profile each, e.g. 64,128.",
            show_default="128",
        ),
    ] = None,
    max_batch: MaxBatch = None,
    dynamic_sequence: Annotated[
        Text,
        typer.Option(
            help="One profile with a dynamic sequence: shortest:tuned:longest, e.g. 16:128:384.",
            show_default="none",
        ),
    ] = None,
    require_fusion: Annotated[
        bool, typer.Option("--require-fusion", help="Gate: every GEMM and attention fused.")
    ] = False,
    every: Annotated[bool, typer.Option("--all", help="List every layer.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    quiet: Quiet = False,
    log_level: LogLevelOption = LogLevel.WARNING,
    log_file: LogFile = None,
) -> None:
    """Check what needs no GPU, before renting one: does TensorRT take an ONNX model?

    Builds with tensorrt-rtx, in memory, for any compute capability that it knows, writes nothing,
    and says what became of the model. It neither runs nor times anything, and says nothing of the
    kernels that datacenter TensorRT will choose.

    Exit codes: 0 accepted, 1 refused, 2 wrong usage, 3 accepted but --require-fusion does not hold.

    Examples:
      deploy check out/demo/onnx/model.fp8.onnx --target sm89,sm120 --require-fusion

      deploy check model.onnx --buckets 64,128 --dynamic-sequence 16:128:384
    """
    options: dict[str, Any] = {
        "model": model,
        "target": target,
        "buckets": buckets,
        "max_batch": max_batch,
        "dynamic_sequence": dynamic_sequence,
    }
    with working(quiet=quiet, log_level=log_level, log_file=log_file) as progress:
        from deploy.check import check, check_config_from_dict

        given = {name: value for name, value in options.items() if value is not None}
        results = check(check_config_from_dict(given), progress)
    _show(results, as_json=as_json, every=every)
    reports = [found["report"] for found in results["targets"]]
    if not all(reports):
        raise typer.Exit(1)
    if require_fusion and not all(map(fusion_holds, reports)):
        raise typer.Exit(3)


def fusion_holds(summary: dict[str, Any]) -> bool:
    """Whether every profile has all that the graph promised; False where that is unknown."""
    return all(profile["unfused"] == [] for profile in summary["profiles"])


def _show(results: dict[str, Any], *, as_json: bool, every: bool) -> None:
    from deploy.cli.output import print_json, result_console

    if as_json:
        print_json(results)
        return
    console = result_console()
    for index, found in enumerate(results["targets"]):
        if index:
            console.print()
        _print_target(results["model"], found, console, every=every)


def _print_target(model: str, found: dict[str, Any], console: Console, *, every: bool) -> None:
    from rich.text import Text as Plain

    from deploy.cli.layer_tables import print_layers

    report, refusal = found["report"], found["refusal"]
    if report is None:
        console.print(Plain(f"{model} for {found['target']}: refused", style="bold red"))
        console.print(Plain(f"{refusal['message']}\ntry: {refusal['remedy']}"))
        return
    by = f"{report['flavour']} {report['version']}"
    console.print(Plain(f"{model} for {found['target']}: accepted by {by}"))
    print_layers(report, console, every=every)
