"""The command that makes a build again, out of the configuration that its folder keeps."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any


def build_command(config: Mapping[str, Any], out: Path, force: Sequence[str] = ()) -> str:
    """One line that builds into a folder what it was built with, and reads no file but the task.

    A recipe that is no preset stands in it, as JSON.

    Args:
        config: Of the build, as `config_to_dict` has it.
        out: The folder, which may have been moved.
        force: Kinds of stages that are to run in any case.
    """
    options = build_options({**config, "out": str(out)}, json.dumps)
    forced = [("--force", kind) for kind in force]
    return shlex.join(["deploy", "build", *(word for each in (*options, *forced) for word in each)])


def build_options(
    config: Mapping[str, Any], spell_recipe: Callable[[Mapping[str, Any]], str]
) -> Iterator[tuple[str, ...]]:
    """Every option of `deploy build` that is not its default, each with its value.

    Args:
        config: Of the build, as `config_to_dict` has it.
        spell_recipe: What --recipe is given for a recipe that is no preset.
    """
    # What a configuration is knows the engine, which names this command where a plan does not load.
    from deploy.config import BuildConfig, config_to_dict

    defaults = config_to_dict(BuildConfig(model="", task="", out=Path()))
    for name, default in defaults.items():
        option, value = f"--{name.replace('_', '-')}", config.get(name, default)
        # What was built is said, whatever the default of --precision may become.
        if value == default and name != "precision":
            continue
        if value is True:
            yield (option,)
        elif name == "recipe":
            for recipe in value:
                yield option, recipe if isinstance(recipe, str) else spell_recipe(recipe)
        elif name == "min":
            for metric, least in value.items():
                yield option, f"{metric}={least}"
        else:
            yield option, ",".join(map(str, value)) if isinstance(value, list) else str(value)
