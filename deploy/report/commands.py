"""The commands that make a build folder again, from its results alone."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from deploy.bench.config import BenchConfig, bench_config_to_dict
from deploy.rebuild import build_options


@dataclass(frozen=True)
class Commands:
    """How to repeat a build.

    Attributes:
        lines: Shell commands, in order; an option a line.
        files: Files that they read and that no preset replaces: name to content (YAML).
    """

    lines: tuple[str, ...]
    files: Mapping[str, str]


def commands(results: Mapping[str, Any]) -> Commands:
    """The `deploy build` line with every option that is not the default, and each benchmark."""
    config = results["config"]
    if not config:
        return Commands((), {})
    files: dict[str, str] = {}
    build = _command(
        ["deploy", "build"], build_options(config, partial(_write_recipe, files=files))
    )
    sweeps = dict.fromkeys(row["sweep"] for row in results["latency"])
    return Commands((build, *(_bench(results, sweep) for sweep in sweeps)), files)


def _command(words: Sequence[str], options: Iterable[tuple[str, ...]]) -> str:
    return " \\\n    ".join(map(shlex.join, (words, *options)))


def _write_recipe(recipe: Mapping[str, Any], files: dict[str, str]) -> str:
    """The name of a file that holds a recipe."""
    import yaml

    name = f"recipe-{recipe['format']}.yaml"
    files[name] = yaml.safe_dump(dict(recipe), sort_keys=False, width=80)
    return name


def _bench(results: Mapping[str, Any], sweep: str) -> str:
    plain = results["bench_environment"][sweep].get("config") or _config_of_rows(results, sweep)
    words = ["deploy", "bench", results["config"]["out"]]
    return _command(words, _bench_options(plain))


def _bench_options(plain: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    defaults = bench_config_to_dict(BenchConfig(out=Path()))
    for name, default in defaults.items():
        value = plain.get(name, default)
        if value == default:
            continue
        if name == "cuda_graph":
            yield ("--no-cuda-graph",)
        else:
            yield f"--{name}", ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _config_of_rows(results: Mapping[str, Any], sweep: str) -> dict[str, Any]:
    """What a benchmark was asked for, as far as its rows tell; earlier versions kept no more."""
    rows = [row for row in results["latency"] if row["sweep"] == sweep]
    own = [row for row in rows if row["backend"] == sweep]
    return {
        "precision": _distinct(own, "precision"),
        "backend": sweep,
        "batch": sorted(_distinct(rows, "batch")),
        "sequence": sorted(_distinct(rows, "sequence")),
        "baseline": [name for name in _distinct(rows, "backend") if name != sweep],
        **results["bench_environment"][sweep].get("effort", {}),
    }


def _distinct(rows: Sequence[Mapping[str, Any]], key: str) -> list[Any]:
    return list(dict.fromkeys(row[key] for row in rows))
