"""Whether a build folder is, file by file, what its stages have made; nothing in it is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from deploy.artifacts import (
    BuildFolder,
    check_not_held,
    is_listed,
    left_behind,
    own_files,
    read_json,
    read_manifest,
)
from deploy.engine.plan import plan_info_from_dict
from deploy.errors import BuildFolderError
from deploy.paths import inside
from deploy.rebuild import build_command
from export.calibration_table import read_table
from export.errors import CalibrationError


class StageState(str, Enum):
    """What is known of a stage."""

    GOOD = "good"
    DAMAGED = "damaged"
    UNFINISHED = "unfinished"


@dataclass(frozen=True)
class VerifiedStage:
    """A stage, and what became of its files.

    Attributes:
        name: As the manifest has it.
        state: Good only where every file is what it was written as. Those of an earlier build stay
            unfinished until the build that was stopped has come to them.
        files: How many it has.
        bytes: Size of them, together.
        seconds: How long it took; None where it has not run.
    """

    name: str
    state: StageState
    files: int
    bytes: int
    seconds: float | None


@dataclass(frozen=True)
class Damage:
    """A file that is not what its stage made.

    Attributes:
        stage: Name of the stage.
        file: Path within the folder.
        reason: What is wrong.
        settled: Whether the manifest vouches for the file as it is, so that only --force makes it
            again.
    """

    stage: str
    file: str
    reason: str
    settled: bool = False


@dataclass(frozen=True)
class Verification:
    """What was found.

    Attributes:
        folder: The folder.
        stages: All stages of the build, in their order.
        damages: Everything that is wrong.
        unlisted: Files that have the names of a build's own, and that no stage vouches for.
        unfinished: The stage in which the build was stopped; None of a complete one.
        command: What builds the damaged and unfinished stages again; None where there are none.
    """

    folder: str
    stages: tuple[VerifiedStage, ...]
    damages: tuple[Damage, ...]
    unlisted: tuple[str, ...]
    unfinished: str | None
    command: str | None

    @property
    def good(self) -> bool:
        """Whether the build is complete, and every file of it as it was written."""
        return not self.damages and self.unfinished is None


def verify_folder(folder: BuildFolder) -> Verification:
    """Hold every file of a build against its manifest, and what files say against each other.

    Raises:
        BuildFolderError: The manifest is missing or damaged, names a file outside of the folder,
            or another process is writing the folder.
    """
    check_not_held(folder.path)
    manifest = read_manifest(folder)
    damages = list(_damages(folder, manifest))
    stages = tuple(_stages(manifest, {damage.stage for damage in damages}))
    unfinished = manifest["unfinished"]
    command = None
    if damages or unfinished is not None:
        kinds = dict.fromkeys(each.stage.partition(".")[0] for each in damages if each.settled)
        command = build_command(manifest["config"], folder.path, tuple(kinds))
    return Verification(
        folder=str(folder.path),
        stages=stages,
        damages=tuple(damages),
        unlisted=tuple(
            name for name in map(folder.name, own_files(folder)) if name not in manifest["files"]
        ),
        unfinished=unfinished,
        command=command,
    )


def _stages(manifest: Mapping[str, Any], damaged: set[str]) -> Iterator[VerifiedStage]:
    wanted, unfinished = manifest["wanted"], manifest["unfinished"]
    reached = len(wanted) if unfinished is None else wanted.index(unfinished)
    for index, name in enumerate(wanted):
        plain = manifest["stages"].get(name)
        entries = [manifest["files"][each] for each in plain["files"]] if plain else []
        state = StageState.GOOD if plain and index < reached else StageState.UNFINISHED
        yield VerifiedStage(
            name=name,
            state=StageState.DAMAGED if name in damaged else state,
            files=len(entries),
            bytes=sum(entry["bytes"] for entry in entries),
            seconds=plain["seconds"] if plain else None,
        )


def _damages(folder: BuildFolder, manifest: Mapping[str, Any]) -> Iterator[Damage]:
    outdated = left_behind(folder, manifest)
    for stage, plain in manifest["stages"].items():
        damaged = False
        for name in plain["files"]:
            reason = _difference(folder, name, manifest["files"][name])
            if reason is None and name in outdated:
                reason = "is older than others that were to be replaced with it"
            if reason is not None:
                damaged = True
                yield Damage(stage, name, reason)
        if not damaged:  # what is not as it was written says nothing
            yield from _contradictions(folder, manifest, stage)


def _difference(folder: BuildFolder, name: str, entry: Mapping[str, Any]) -> str | None:
    """How a file differs from its entry in the manifest."""
    try:
        path = inside(folder.path, name)
        if not path.is_file():
            return "is missing"
        if is_listed(path, entry):
            return None
        size = path.stat().st_size
        if size != entry["bytes"]:
            return f"has {size} bytes, not {entry['bytes']}"
        return "has changed: its sha256 differs"
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"


def _contradictions(
    folder: BuildFolder, manifest: Mapping[str, Any], stage: str
) -> Iterator[Damage]:
    """What the files of a stage say against each other, or against its record."""
    files, result = manifest["stages"][stage]["files"], manifest["stages"][stage]["result"]
    calibration = folder.name(folder.calibration)
    if calibration in files:
        reason = _calibration_problem(folder, result)
        if reason is not None:
            yield Damage(stage, calibration, reason, settled=True)
    if "engine" in result:
        engine = result["engine"]
        sidecar = folder.name(folder.plan_info(engine["precision"], engine["target"]))
        reason = _plan_problem(folder, manifest["files"].get(engine["file"]), engine, sidecar)
        if reason is not None:
            yield Damage(stage, sidecar, reason, settled=True)


def _calibration_problem(folder: BuildFolder, result: Mapping[str, Any]) -> str | None:
    try:
        table = read_table(folder.calibration, result.get("model_fingerprint", ""))
    except CalibrationError as error:
        return error.message
    if table.source.data_fingerprint != result.get("data_fingerprint"):
        return "was calibrated on other rows than the manifest says"
    return None


def _plan_problem(
    folder: BuildFolder, plan: Mapping[str, Any] | None, engine: Mapping[str, Any], sidecar: str
) -> str | None:
    if plan is None:
        return f"describes '{engine['file']}', which the manifest does not list"
    try:
        info = plan_info_from_dict(read_json(inside(folder.path, sidecar)))
    except BuildFolderError as error:
        return error.message
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"does not describe a plan: {error!r}"
    if (info.sha256, info.bytes) != (plan["sha256"], plan["bytes"]):
        return f"describes another plan than '{engine['file']}'"
    said = (info.precision.value, info.target, info.flavour.value)
    if said != (engine["precision"], engine["target"], engine["flavour"]):
        return f"says {', '.join(said)}, unlike the manifest"
    return None
