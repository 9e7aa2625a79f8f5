"""`deploy evaluate`: judge the models of a build again, elsewhere or on more."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from deploy.cli.options import (
    BackendOption,
    Limit,
    LogFile,
    LogLevelOption,
    MaxDrop,
    MinAgreement,
    Minimum,
    Quiet,
    Text,
)
from deploy.cli.output import LogLevel, working


def command(
    out: Annotated[str, typer.Argument(help="Build folder.")],
    precision: Annotated[
        Text,
        typer.Option(help="Any of fp32,fp16,int8,fp8, comma-separated.", show_default="all built"),
    ] = None,
    backend: BackendOption = None,
    data_dir: Annotated[
        Text,
        typer.Option(help="Local data, holding glue/ or squad/.", show_default="the build's"),
    ] = None,
    limit: Limit = None,
    max_drop: MaxDrop = None,
    minimum: Minimum = None,
    min_agreement: MinAgreement = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print results.json.")] = False,
    quiet: Quiet = False,
    log_level: LogLevelOption = LogLevel.WARNING,
    log_file: LogFile = None,
) -> None:
    """Evaluate the models of a build folder, without building them again.

    What is found joins the results: no backend overwrites another's. One that was stopped goes on
    where it was. Without --max-drop, --min and --min-agreement the build's own limits hold.

    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 done but a gate does not hold.

    Examples:
      deploy evaluate out/sst2

      deploy evaluate out/sst2 --backend tensorrt --max-drop 0.01 --min accuracy=0.9
    """
    options: dict[str, Any] = {
        "out": out,
        "precision": precision,
        "backend": backend,
        "data_dir": data_dir,
        "limit": limit,
        "max_drop": max_drop,
        "min": minimum or None,
        "min_agreement": min_agreement,
    }
    from deploy.cli.interrupt import resume_evaluation, stopping_at_once
    from deploy.cli.outcome import show_outcome
    from deploy.evaluation.config import evaluate_config_from_dict

    config = evaluate_config_from_dict(options)
    with (
        working(quiet=quiet, log_level=log_level, log_file=log_file) as progress,
        stopping_at_once(Path(out), resume_evaluation),
    ):
        from deploy.evaluation.pipeline import evaluate_folder

        results = evaluate_folder(config, progress)
    show_outcome(results, Path(out), as_json=as_json)
