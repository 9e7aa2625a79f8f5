"""`deploy build`: the whole chain."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from deploy.cli.output import LogLevel

if TYPE_CHECKING:
    from deploy.config import BuildConfig

# typer reads the annotations of a command at run time, where Python 3.10 knows Optional best.
Text = Optional[str]  # noqa: UP045
Number = Optional[int]  # noqa: UP045


def command(
    model: Annotated[
        Text, typer.Option(help="Folder, hub id such as org/name, or demo.", show_default=False)
    ] = None,
    task: Annotated[
        Text, typer.Option(help="sst2, mrpc, squad or demo.", show_default=False)
    ] = None,
    out: Annotated[Text, typer.Option(help="Build folder to write.", show_default=False)] = None,
    precision: Annotated[
        Text, typer.Option(help="Any of fp32,fp16,int8,fp8, comma-separated.", show_default="fp8")
    ] = None,
    data_dir: Annotated[
        Text,
        typer.Option(help="Local data, holding glue/ and squad/.", show_default="the hub"),
    ] = None,
    engine: Annotated[
        Text,
        typer.Option(
            help="What builds plans: auto, none, tensorrt or tensorrt-rtx.", show_default="auto"
        ),
    ] = None,
    target: Annotated[
        Text,
        typer.Option(
            help="Compute capabilities to build for, without a GPU (tensorrt-rtx).",
            show_default="this GPU's, or sm89",
        ),
    ] = None,
    backend: Annotated[
        Text, typer.Option(help="What runs evaluation: auto or onnxruntime.", show_default="auto")
    ] = None,
    high_precision: Annotated[
        Text,
        typer.Option(
            help="Type of what a quantized engine leaves unquantized: fp16 or bf16.",
            show_default="fp16",
        ),
    ] = None,
    buckets: Annotated[
        Text,
        typer.Option(
            help="Sequence lengths, one optimization profile each, e.g. 64,128.",
            show_default="the task's",
        ),
    ] = None,
    max_batch: Annotated[
        Number, typer.Option(help="Largest batch of a profile.", show_default="32")
    ] = None,
    calib_samples: Annotated[
        Number, typer.Option(help="Training examples to calibrate on.", show_default="256")
    ] = None,
    seed: Annotated[
        Number, typer.Option(help="Of the calibration sample.", show_default="0")
    ] = None,
    recipe: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Recipe name or YAML file; may be repeated.", show_default=False),
    ] = None,
    max_drop: Annotated[
        Text,
        typer.Option(
            help="Gate: largest relative drop of the main metric, e.g. 0.01.", show_default="none"
        ),
    ] = None,
    require_fusion: Annotated[
        bool, typer.Option("--require-fusion", help="Gate: every GEMM and attention fused.")
    ] = False,
    limit: Annotated[
        Number, typer.Option(help="Evaluate only the first N examples.", show_default="all")
    ] = None,
    config: Annotated[
        Text,
        typer.Option(help="YAML file of these options; the command line wins.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print results.json.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no log.")] = False,
    log_level: Annotated[
        LogLevel, typer.Option(help="Severity from which log records are shown.")
    ] = LogLevel.WARNING,
) -> None:
    """Export, calibrate, quantize, build engines, evaluate and report.

    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 built but a gate does not hold.

    Examples:
      deploy build --model demo --task demo --out out/demo

      deploy build --model ./sst2-model --task sst2 --data-dir ./data --out out/sst2

      deploy build --config sst2.yaml --precision fp8,int8 --max-drop 0.01
    """
    options: dict[str, Any] = {
        "model": model,
        "task": task,
        "out": out,
        "precision": precision,
        "data_dir": data_dir,
        "engine": engine,
        "target": target,
        "backend": backend,
        "high_precision": high_precision,
        "buckets": buckets,
        "max_batch": max_batch,
        "calib_samples": calib_samples,
        "seed": seed,
        "recipe": recipe or None,
        "max_drop": max_drop,
        "require_fusion": require_fusion or None,
        "limit": limit,
    }
    from deploy.config import config_from_dict, load_config

    given = {name: value for name, value in options.items() if value is not None}
    base = load_config(Path(config)) if config else {}
    results = _run(config_from_dict({**base, **given}), quiet=quiet, log_level=log_level)
    _show(results, as_json=as_json)
    if not all(gate["passed"] for gate in results["gates"]):
        raise typer.Exit(3)


def _run(config: BuildConfig, *, quiet: bool, log_level: LogLevel) -> dict[str, Any]:
    from calib_data.progress import SilentProgress
    from deploy.cli.output import (
        TerminalProgress,
        error_console,
        only_results_on_stdout,
        set_up_logging,
    )

    console = error_console()
    set_up_logging(LogLevel.ERROR if quiet else log_level, console)
    with only_results_on_stdout():
        from deploy.pipeline import build

        return build(config, SilentProgress() if quiet else TerminalProgress(console))


def _show(results: dict[str, Any], *, as_json: bool) -> None:
    from deploy.cli.output import print_json, result_console
    from deploy.cli.tables import print_results

    if as_json:
        print_json(results)
        return
    print_results(results, result_console())
    typer.echo(f"\nreport: {Path(results['config']['out']) / 'report.md'}")
