"""`deploy verify`: whether every file of a build is what its stage made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from deploy.verification import Verification


def command(
    out: Annotated[str, typer.Argument(help="Build folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Hold every file of a build against its manifest: presence, size, sha256, and what it says.

    Nothing is written, so it works on a read-only folder. A build that was stopped is not good
    either: its stages that are yet to run are shown as unfinished.

    Exit codes: 0 complete and as built, 1 damaged or unfinished.

    Examples:
      deploy verify out/demo
    """
    from dataclasses import asdict

    from deploy.artifacts import BuildFolder
    from deploy.cli.output import only_results_on_stdout, print_json
    from deploy.verification import verify_folder

    with only_results_on_stdout():
        found = verify_folder(BuildFolder(Path(out)))
    if as_json:
        print_json({"good": found.good, **asdict(found)})
    else:
        _print(found)
    if not found.good:
        raise typer.Exit(1)


def _print(found: Verification) -> None:
    from rich.text import Text

    from deploy.cli.output import result_console
    from deploy.cli.tables import table_of
    from deploy.report.numbers import megabytes

    console = result_console()
    table = table_of({"stage": False, "state": False, "files": True, "MB": True, "seconds": True})
    for stage in found.stages:
        seconds = "" if stage.seconds is None else f"{stage.seconds:.1f}"
        table.add_row(
            stage.name, stage.state.value, str(stage.files), megabytes(stage.bytes), seconds
        )
    console.print(table)
    lines = [f"{each.file}: {each.reason} ({each.stage})" for each in found.damages]
    lines += [f"{name}: of no stage" for name in found.unlisted]
    if found.unfinished is not None:
        lines.append(f"the build stopped in {found.unfinished}")
    if found.good:
        lines.append(f"{found.folder} is complete, and every file is as it was built")
    else:
        lines += ["build it again:", f"  {found.command}"]
    console.print()
    for line in lines:
        # Names come from files and may look like markup; a command stays on its line.
        console.print(Text(line), soft_wrap=True)
