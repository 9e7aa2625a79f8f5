"""What the manifest says of a stage that is complete."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deploy.artifacts import BuildFolder, is_listed

Files = Mapping[str, Mapping[str, Any]]
"""`bytes` and `sha256` of files, by their paths within the build folder."""


@dataclass(frozen=True)
class StageRecord:
    """A stage that is complete: its files are in place, and synced.

    Attributes:
        key: Of what it was made from; see `stage_key`.
        seconds: How long it took when it ran.
        peak_memory_bytes: The most that the process held meanwhile; None where the system does not
            tell.
        reused: Whether the last build took it over.
        files: What it wrote.
        result: What it found out; plain data.
    """

    key: str
    seconds: float
    peak_memory_bytes: int | None
    reused: bool
    files: Files
    result: Mapping[str, Any]


def records_from_manifest(manifest: Mapping[str, Any]) -> dict[str, StageRecord]:
    """The stages of a manifest, by name."""
    files = manifest["files"]
    return {
        name: StageRecord(**{**plain, "files": {each: files[each] for each in plain["files"]}})
        for name, plain in manifest["stages"].items()
    }


def record_to_dict(record: StageRecord) -> dict[str, Any]:
    """A stage's entry in the manifest; its files stand in the manifest's own list by name."""
    return {
        "key": record.key,
        "seconds": record.seconds,
        "peak_memory_bytes": record.peak_memory_bytes,
        "reused": record.reused,
        "files": sorted(record.files),
        "result": dict(record.result),
    }


def is_intact(folder: BuildFolder, record: StageRecord) -> bool:
    """Whether every file of a stage is there as it was written."""
    try:
        return all(is_listed(folder.path / name, entry) for name, entry in record.files.items())
    except OSError:
        return False
