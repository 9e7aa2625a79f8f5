"""`deploy bench`: how fast each precision runs, and which is the fastest where."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from deploy.cli.options import BackendOption, LogFile, LogLevelOption, Number, Quiet, Text
from deploy.cli.output import LogLevel, working

Seconds = Optional[float]  # noqa: UP045


def command(
    out: Annotated[str, typer.Argument(help="Build folder.")],
    precision: Annotated[
        Text,
        typer.Option(help="Any of fp32,fp16,int8,fp8, comma-separated.", show_default="all built"),
    ] = None,
    backend: BackendOption = None,
    batch: Annotated[
        Text, typer.Option(help="Batch sizes.", show_default="1,8,32, up to --max-batch")
    ] = None,
    sequence: Annotated[
        Text, typer.Option(help="Sequence lengths in tokens.", show_default="the buckets")
    ] = None,
    iterations: Annotated[
        Number, typer.Option(help="Calls at least, of each at every shape.", show_default="100")
    ] = None,
    seconds: Annotated[
        Seconds, typer.Option(help="Time at least, of each at every shape.", show_default="1")
    ] = None,
    warmup: Annotated[
        Seconds, typer.Option(help="Seconds of calls before those.", show_default="0.2")
    ] = None,
    baseline: Annotated[
        Text,
        typer.Option(
            help="Run too: torch-eager, torch-compile, onnxruntime-cuda.", show_default="none"
        ),
    ] = None,
    model: Annotated[
        Text,
        typer.Option(
            help="Checkpoint for torch's baselines, if it has moved.", show_default="the build's"
        ),
    ] = None,
    no_cuda_graph: Annotated[
        bool, typer.Option("--no-cuda-graph", help="Measure without CUDA graphs only.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print results.json.")] = False,
    quiet: Quiet = False,
    log_level: LogLevelOption = LogLevel.WARNING,
    log_file: LogFile = None,
) -> None:
    """Measure latency and throughput of a build folder, into its results and report.

    Examples:
      deploy bench out/sst2

      deploy bench out/sst2 --precision fp8,fp16 --batch 1,8,32 --baseline torch-compile
    """
    options: dict[str, Any] = {
        "out": out,
        "precision": precision,
        "backend": backend,
        "batch": batch,
        "sequence": sequence,
        "iterations": iterations,
        "seconds": seconds,
        "warmup": warmup,
        "baseline": baseline,
        "model": model,
        "cuda_graph": not no_cuda_graph,
    }
    from deploy.bench.config import bench_config_from_dict
    from deploy.cli.interrupt import begin_anew, stopping_at_once

    config = bench_config_from_dict(options)
    with (
        working(quiet=quiet, log_level=log_level, log_file=log_file) as progress,
        stopping_at_once(Path(out), begin_anew),
    ):
        from deploy.bench.pipeline import bench

        measured, results = bench(config, progress)
    _show(results, measured.value, Path(out), as_json=as_json)


def _show(results: dict[str, Any], backend: str, out: Path, *, as_json: bool) -> None:
    from deploy.cli.bench_tables import print_benchmark
    from deploy.cli.output import print_json, result_console

    if as_json:
        print_json(results)
        return
    print_benchmark(results, backend, result_console())
    typer.echo(f"\nreport: {out / 'report.html'}")
