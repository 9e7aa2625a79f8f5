"""`deploy build`: the whole chain."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from deploy.cli.options import (
    AllowPickle,
    BackendOption,
    Buckets,
    CalibSamples,
    DataDir,
    HighPrecision,
    Limit,
    LogFile,
    LogLevelOption,
    MaxBatch,
    MaxDrop,
    MinAgreement,
    Minimum,
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
    out: Annotated[Text, typer.Option(help="Build folder to write.", show_default=False)] = None,
    precision: Annotated[
        Text, typer.Option(help="Any of fp32,fp16,int8,fp8, comma-separated.", show_default="fp8")
    ] = None,
    data_dir: DataDir = None,
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
    backend: BackendOption = None,
    high_precision: HighPrecision = None,
    buckets: Buckets = None,
    max_batch: MaxBatch = None,
    workspace_mib: Annotated[
        Number,
        typer.Option(help="Device memory that a kernel may use, in MiB.", show_default="all"),
    ] = None,
    optimization_level: Annotated[
        Number,
        typer.Option(help="TensorRT's, 0 (fast build) to 5 (fast engine).", show_default="3"),
    ] = None,
    hardware_compatibility: Annotated[
        Text,
        typer.Option(
            help="GPUs that may run the plan: none but the building model, "
            "same-compute-capability or ampere-plus (tensorrt).",
            show_default="none",
        ),
    ] = None,
    version_compatible: Annotated[
        bool,
        typer.Option(
            "--version-compatible", help="Let later TensorRT releases load the plan (tensorrt)."
        ),
    ] = False,
    calib_samples: CalibSamples = None,
    seed: Annotated[
        Number, typer.Option(help="Of the calibration sample.", show_default="0")
    ] = None,
    recipe: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            help="Recipe name, YAML file, or its content in braces; may be repeated.",
            show_default=False,
        ),
    ] = None,
    max_drop: MaxDrop = None,
    minimum: Minimum = None,
    min_agreement: MinAgreement = None,
    require_fusion: Annotated[
        bool, typer.Option("--require-fusion", help="Gate: every GEMM and attention fused.")
    ] = False,
    limit: Limit = None,
    force: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            help="Run a stage though nothing has changed: export, calibrate, quantize, compile, "
            "evaluate or report; may be repeated.",
            show_default=False,
        ),
    ] = None,
    allow_pickle: AllowPickle = False,
    config: Annotated[
        Text,
        typer.Option(help="YAML file of these options; the command line wins.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print results.json.")] = False,
    quiet: Quiet = False,
    log_level: LogLevelOption = LogLevel.WARNING,
    log_file: LogFile = None,
) -> None:
    """Export, calibrate, quantize, build engines, evaluate and report.

    What the folder has already, of the same options, inputs and tools, is taken over; a build that
    was stopped goes on after its last complete stage.

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
        "workspace_mib": workspace_mib,
        "optimization_level": optimization_level,
        "hardware_compatibility": hardware_compatibility,
        "version_compatible": version_compatible or None,
        "calib_samples": calib_samples,
        "seed": seed,
        "recipe": recipe or None,
        "max_drop": max_drop,
        "min": minimum or None,
        "min_agreement": min_agreement,
        "require_fusion": require_fusion or None,
        "limit": limit,
        "allow_pickle": allow_pickle or None,
    }
    from deploy.cli.interrupt import resume_build, stopping_at_once
    from deploy.cli.outcome import show_outcome
    from deploy.config import config_from_dict, load_config, parse_force

    given = {name: value for name, value in options.items() if value is not None}
    base = load_config(Path(config)) if config else {}
    build_config = config_from_dict({**base, **given})
    kinds = parse_force(force or ())
    with (
        working(quiet=quiet, log_level=log_level, log_file=log_file) as progress,
        stopping_at_once(build_config.out, resume_build),
    ):
        from deploy.pipeline import build

        results = build(build_config, progress, kinds)
    show_outcome(results, build_config.out, as_json=as_json, built=True)
