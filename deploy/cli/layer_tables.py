"""Tables of an engine's layers, narrow enough for 80 columns."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from deploy.cli.tables import table_of
from deploy.report.encoder import ENCODER_LAYER, index_range, index_ranges

# What the builder adds to names: its compiler's marks, the region and the profile.
_NOISE = re.compile(r"^_*myl_|_myl\d+_\d+| \[profile \d+\]")

_NAME_WIDTH = 26

# What two profiles must share to be shown as one.
_SHOWN = (
    *("layers", "quantized_gemms", "expected_gemms", "fused_attention", "expected_attention"),
    *("unfused", "operations", "types"),
)

Profiles = Sequence[Mapping[str, Any]]


def print_layers(summary: Mapping[str, Any], console: Console, *, every: bool) -> None:
    """Print the profiles of a summary; those that differ in nothing shown are printed once.

    Args:
        summary: As `deploy.engine.layer_summary.summarize` makes it.
        console: Where to.
        every: List every layer, instead of one line for encoder layers that are alike.
    """
    for _, group in groupby(summary["profiles"], key=lambda each: [each[name] for name in _SHOWN]):
        alike = list(group)
        console.print()
        for part in _listings(alike) if every else _parts(alike):
            # Names come from files and may look like markup; Text is printed as it stands.
            console.print(Text(part) if isinstance(part, str) else part, soft_wrap=False)


def profile_line(profile: Mapping[str, Any]) -> str:
    """A profile in words."""
    low, best, high = profile["min"], profile["opt"], profile["max"]
    batch = index_range(low["batch"], high["batch"])
    sequence = index_range(low["sequence"], high["sequence"])
    tuned = f"{best['batch']} x {best['sequence']}"
    return f"profile {profile['index']}: batch {batch}, sequence {sequence}, tuned for {tuned}"


def _parts(alike: Profiles) -> Iterator[str | Table]:
    profile = alike[0]
    yield from map(profile_line, alike)
    if profile["unfused"] is None:
        yield _types(profile)
        yield "fusion is unknown: the ONNX names no modules that it could be held against"
        return
    yield _encoder(profile["operations"])
    for layer in profile["elsewhere"]:
        yield (
            f"outside of the encoder: {layer['type']} {_arrow(layer)}, "
            f"{_counted(layer['onnx_nodes'])}"
        )
    yield (
        f"{profile['quantized_gemms']} of {profile['expected_gemms']} GEMMs in 8 bits, "
        f"{profile['fused_attention']} of {profile['expected_attention']} attentions fused; "
        f"{profile['layers']} layers"
    )
    if profile["unfused"]:
        yield _unfused(profile)


def _listings(alike: Profiles) -> Iterator[str | Table]:
    for profile in alike:
        labels = {
            each["module"]: f"{each['layer']} {each['role']}" for each in profile["operations"]
        }
        yield profile_line(profile)
        table = table_of({"name": False, "type": False, "in": False, "out": False, "from": False})
        for layer in profile["listing"]:
            table.add_row(
                Text(_shortened(layer["name"])),
                layer["type"],
                ",".join(dict.fromkeys(layer["inputs"])),
                ",".join(dict.fromkeys(layer["outputs"])),
                Text(_origin(layer, labels)),
            )
        yield table


def _origin(layer: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    """What a layer was fused from: its modules, or else its sites, or else its nodes."""
    modules = dict.fromkeys(labels[module] for module in layer["modules"])
    sites = [ENCODER_LAYER.sub(r"\1 ", site) for site in layer["sites"]]
    return _counted(list(modules) or sites or layer["onnx_nodes"])


def _encoder(operations: Iterable[Mapping[str, Any]]) -> Table:
    """A line for each run of encoder layers that are computed alike."""
    layers: dict[int, dict[str, list[Mapping[str, Any]]]] = {}
    for operation in operations:
        roles = layers.setdefault(operation["layer"], {})
        roles.setdefault(operation["role"], []).append(operation)
    # In the order of execution, which puts attention behind the projections that feed it.
    columns = ("qkv", "attention", "attention out", "ffn in", "ffn out")
    table = table_of({"layers": False, **dict.fromkeys(columns, False)})
    rows = [
        (index, tuple(_cell(roles[role]) for role in columns)) for index, roles in layers.items()
    ]
    for cells, group in groupby(rows, key=lambda row: row[1]):
        indexes = [index for index, _ in group]
        table.add_row(index_range(indexes[0], indexes[-1]), *cells)
    return table


def _cell(operations: Sequence[Mapping[str, Any]]) -> str:
    precisions = ", ".join(dict.fromkeys(each["precision"] for each in operations))
    if not all(each["fused"] for each in operations):
        return f"{precisions}, unfused"
    return f"{precisions}, merged" if all(each["merged"] for each in operations) else precisions


def _unfused(profile: Mapping[str, Any]) -> Table:
    """What stayed in high precision, the same module of several layers on one line."""
    named = {each["module"]: each for each in profile["operations"]}
    layers: dict[tuple[str, str], list[int]] = {}
    for each in profile["unfused"]:
        operation = named[each["module"]]
        indexes = layers.setdefault((operation["role"], each["reason"]), [])
        if operation["layer"] not in indexes:
            indexes.append(operation["layer"])
    table = table_of({"layers": False, "unfused": False, "likely reason": False})
    for (role, reason), indexes in layers.items():
        table.add_row(index_ranges(indexes), role, reason)
    return table


def _types(profile: Mapping[str, Any]) -> Table:
    table = table_of({"layers": True, "type": False, "in": False, "out": False})
    for kind in profile["types"]:
        table.add_row(str(kind["count"]), kind["type"], kind["input"], kind["output"])
    return table


def _arrow(layer: Mapping[str, Any]) -> str:
    return " -> ".join(",".join(dict.fromkeys(layer[key])) for key in ("inputs", "outputs"))


def _counted(names: Sequence[str]) -> str:
    if len(names) <= 3:
        return ", ".join(names)
    return f"{', '.join(names[:2])} and {len(names) - 2} more"


def _shortened(name: str) -> str:
    """A builder's name in one column."""
    first, *merged = _NOISE.sub("", name).split("+")
    text = ENCODER_LAYER.sub(r"\1 ", first) + (f" + {len(merged)}" if merged else "")
    return text if len(text) <= _NAME_WIDTH else f"{text[: _NAME_WIDTH - 1]}…"
