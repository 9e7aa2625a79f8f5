"""`deploy doctor`: what works on this machine, and what would add the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deploy.doctor.abilities import Ability
    from deploy.doctor.findings import Finding


def command(
    require_gpu: Annotated[
        bool, typer.Option("--require-gpu", help="Exit 1 unless engines run here.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show machine and packages, what works here, and the command that adds what does not.

    Exit codes: 0 what is needed is there, 1 it is not, 2 wrong usage.
    """
    from dataclasses import asdict

    from deploy.cli.output import print_json
    from deploy.doctor.abilities import abilities, run_engines
    from deploy.doctor.facts import gather_facts
    from deploy.doctor.findings import Status, examine

    facts = gather_facts()
    findings, able = examine(facts), abilities(facts)
    if as_json:
        print_json(
            {
                "findings": [asdict(finding) for finding in findings],
                "works": [ability.name for ability in able if ability.works],
                "missing": [asdict(ability) for ability in able if not ability.works],
                "packages": dict(facts.packages),
            }
        )
    else:
        _show(findings, able)
    well = all(finding.status is not Status.MISSING for finding in findings)
    if not well or (require_gpu and not run_engines(facts).works):
        raise typer.Exit(1)


def _show(findings: Sequence[Finding], able: Sequence[Ability]) -> None:
    from rich.table import Table
    from rich.text import Text

    from deploy.cli.output import result_console

    console = result_console()
    table = Table(show_header=False, box=None, pad_edge=False)
    for finding in findings:
        # Text is printed as it stands; names of folders may look like markup.
        table.add_row(Text(finding.name), Text(finding.value, style=_STYLES[finding.status.value]))
        if finding.remedy:
            table.add_row("", Text(f"try: {finding.remedy}"))
    console.print(table)
    console.print("\nworks here:")
    for ability in able:
        if ability.works:
            console.print(Text(f"  {ability.name}"))
    missing = [ability for ability in able if not ability.works]
    if missing:
        console.print("\nmissing:")
    for ability in missing:
        console.print(Text(f"  {ability.name}: {ability.lacks}"))
        console.print(Text(f"    {ability.remedy}"))


_STYLES = {"ok": "", "missing": "red", "warning": "yellow"}
