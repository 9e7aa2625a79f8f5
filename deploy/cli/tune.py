"""`deploy tune`: search the fastest recipe that meets an accuracy limit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from deploy.cli.options import (
    AllowPickle,
    Buckets,
    CalibSamples,
    DataDir,
    HighPrecision,
    Limit,
    LogFile,
    LogLevelOption,
    MaxBatch,
    Model,
    Number,
    Quiet,
    TaskName,
    Text,
)
from deploy.cli.output import LogLevel, working


def command(
    model: Model = None,
    task: TaskName = None,
    out: Annotated[
        Text, typer.Option(help="Folder for recipe, results and plot.", show_default=False)
    ] = None,
    precision: Annotated[Text, typer.Option(help="fp8 or int8.", show_default="fp8")] = None,
    data_dir: DataDir = None,
    recipe: Annotated[
        Text,
        typer.Option(
            help="Recipe name or YAML file to start from.", show_default="the precision's"
        ),
    ] = None,
    max_drop: Annotated[
        Text,
        typer.Option(
            help="Largest relative drop of the main metric that passes.", show_default="0.01"
        ),
    ] = None,
    tune_samples: Annotated[
        Number,
        typer.Option(
            help="Training examples to measure on, apart from those that calibrate.",
            show_default="512",
        ),
    ] = None,
    calib_samples: CalibSamples = None,
    seed: Annotated[Number, typer.Option(help="Of both samples.", show_default="0")] = None,
    high_precision: HighPrecision = None,
    buckets: Buckets = None,
    max_batch: MaxBatch = None,
    limit: Limit = None,
    allow_pickle: AllowPickle = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print tune.json.")] = False,
    quiet: Quiet = False,
    log_level: LogLevelOption = LogLevel.WARNING,
    log_file: LogFile = None,
) -> None:
    """Find the fastest recipe that meets --max-drop on training rows, and report it on dev.

    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 done, but the recipe misses --max-drop.

    Examples:
      deploy tune --model ./mrpc-model --task mrpc --data-dir ./data --precision int8 --out out/tune

      deploy build --model ./mrpc-model --task mrpc --data-dir ./data --precision int8
      --recipe out/tune/recipe.yaml --out out/mrpc
    """
    options: dict[str, Any] = {
        "model": model,
        "task": task,
        "out": out,
        "precision": precision,
        "data_dir": data_dir,
        "recipe": recipe,
        "max_drop": max_drop,
        "tune_samples": tune_samples,
        "calib_samples": calib_samples,
        "seed": seed,
        "high_precision": high_precision,
        "buckets": buckets,
        "max_batch": max_batch,
        "limit": limit,
        "allow_pickle": allow_pickle or None,
    }
    from deploy.cli.interrupt import begin_anew, stopping_at_once
    from deploy.tune.config import tune_config_from_dict

    config = tune_config_from_dict({k: v for k, v in options.items() if v is not None})
    with (
        working(quiet=quiet, log_level=log_level, log_file=log_file) as progress,
        stopping_at_once(config.build.out, begin_anew),
    ):
        from deploy.tune.pipeline import tune

        results = tune(config, progress)
    _show(results, as_json=as_json)
    if not all(gate["passed"] for gate in results["gates"]):
        raise typer.Exit(3)


def _show(results: dict[str, Any], *, as_json: bool) -> None:
    from deploy.cli.output import print_json, result_console
    from deploy.cli.tune_tables import print_tuning

    if as_json:
        print_json(results)
        return
    print_tuning(results, result_console())
    out = Path(results["config"]["out"])
    typer.echo(f"\nrecipe: {out / 'recipe.yaml'}\nplot: {out / 'sensitivity.svg'}")
