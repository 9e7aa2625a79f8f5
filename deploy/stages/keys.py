"""What a stage's outcome depends on, as one hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from deploy.artifacts import canonical
from deploy.environment import installed_versions


def stage_key(stage: str, **facts: Any) -> str:
    """sha256 over all that decides about what a stage makes.

    Args:
        stage: Its name.
        facts: Plain data: options, hashes of what is read, versions.
    """
    return hashlib.sha256(canonical({"stage": stage, **facts})).hexdigest()


def versions_of(*packages: str) -> dict[str, str | None]:
    """Versions of these packages, and of this one."""
    installed = installed_versions()
    return {name: installed[name] for name in ("bert-trt-deploy", *packages)}


def hashes_of(files: Mapping[str, Mapping[str, Any]], names: Iterable[str]) -> dict[str, str]:
    """sha256 of the files whose names begin so, by name, out of the manifest's `files`."""
    starts = tuple(names)
    return {name: entry["sha256"] for name, entry in files.items() if name.startswith(starts)}
