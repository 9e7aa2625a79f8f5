"""`deploy inspect`: the layers of an engine, and what stayed in high precision."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy.cli.options import Number, Text

if TYPE_CHECKING:
    from deploy.artifacts import BuildFolder


def command(
    out: Annotated[str, typer.Argument(help="Build folder.")],
    precision: Annotated[
        Text, typer.Option(help="fp8, int8, fp16 or fp32.", show_default="the first there is")
    ] = None,
    target: Annotated[
        Text,
        typer.Option(help="Compute capability.", show_default="the first there is"),
    ] = None,
    profile: Annotated[
        Number, typer.Option(help="Show this optimization profile only.", show_default="all")
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="List every layer, as --json always does.")
    ] = False,
    require_fusion: Annotated[
        bool, typer.Option("--require-fusion", help="Gate: every GEMM and attention fused.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what the builder made of a model: precisions, fusion, and what it left out and why.

    Encoder layers that are computed alike share a line. docs/layers.md explains the reasons.

    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 --require-fusion does not hold.

    Examples:
      deploy inspect out/demo

      deploy inspect out/demo --precision int8 --profile 0 --all
    """
    from deploy.artifacts import BuildFolder
    from deploy.cli.check import fusion_holds
    from deploy.cli.output import only_results_on_stdout
    from deploy.engine.layer_report import read_report
    from deploy.engine.layer_summary import summarize

    with only_results_on_stdout():
        folder = BuildFolder(Path(out))
        chosen, others = _choose(folder, precision, target)
        summary = _only(summarize(read_report(folder.layers(*chosen))), profile)
    _show(summary, others, as_json=as_json, every=every)
    if require_fusion and not fusion_holds(summary):
        raise typer.Exit(3)


def _choose(
    folder: BuildFolder, precision: str | None, target: str | None
) -> tuple[tuple[str, str], list[str]]:
    """The engine to show, and the names of the others."""
    from deploy.engine.session import Precision
    from deploy.errors import BuildFolderError

    # Those that people build first come first: 8 bits before 16 before 32.
    order = [each.value for each in (Precision.FP8, Precision.INT8, Precision.FP16, Precision.FP32)]
    found = [
        (named, path.name.removeprefix(f"model.{named}.").removesuffix(".layers.json"))
        for named in order
        for path in sorted(
            folder.path.glob(f"engines/model.{named}.*.layers.json"),
            key=lambda path: (len(path.name), path.name),  # sm89 before sm120
        )
    ]
    fitting = [each for each in found if precision in (None, each[0]) and target in (None, each[1])]
    if fitting:
        return fitting[0], [" ".join(each) for each in found if each != fitting[0]]
    if found:
        raise BuildFolderError(
            f"'{folder.path}' has no layers of {precision or 'any precision'} for "
            f"{target or 'any target'}",
            f"there are: {', '.join(' '.join(each) for each in found)}",
        )
    raise BuildFolderError(
        f"'{folder.path}' has no layer report",
        f"make one with `deploy build --engine tensorrt-rtx --out {folder.path}`, or check an ONNX "
        "file with `deploy check`",
    )


def _only(summary: dict[str, Any], profile: int | None) -> dict[str, Any]:
    from calib_data.errors import UsageError

    if profile is None:
        return summary
    count = len(summary["profiles"])
    if not 0 <= profile < count:
        raise UsageError(
            f"--profile {profile}: the engine has {count} profiles", f"give 0 to {count - 1}"
        )
    return {**summary, "profiles": [summary["profiles"][profile]]}


def _show(summary: dict[str, Any], others: list[str], *, as_json: bool, every: bool) -> None:
    from rich.text import Text as Plain

    from deploy.cli.layer_tables import print_layers
    from deploy.cli.output import print_json, result_console

    if as_json:
        print_json(summary)
        return
    console = result_console()
    by = f"{summary['flavour']} {summary['version']}"
    console.print(Plain(f"{summary['precision']} for {summary['target']}, {by}"))
    if others:
        console.print(Plain(f"also built: {', '.join(others)}"))
    print_layers(summary, console, every=every)
