"""Run the stages of a build one after another, or take them over, with the manifest in step.

The manifest is the truth about a folder. A stage's record leaves it before the stage runs, and
enters it once the stage's files are on disk, so that a process that dies anywhere leaves a manifest
that vouches for whole files only. Records of later stages stay meanwhile: their keys hold the
content of what they read, so they are taken over where that has not changed, and run where it has.

What a stage is about to write, and what it gives up, is `removable` in the manifest before it is
touched, until it is vouched for or gone. Nothing else in the folder is ever removed, whatever its
name: it is the user's.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from calib_data.progress import Progress
from deploy.artifacts import (
    REMOVABLE,
    BuildFolder,
    canonical,
    hash_files,
    left_behind,
    make_folder,
    read_manifest,
    settle,
    temporary_files,
    write_manifest,
)
from deploy.artifacts.writing import not_writable
from deploy.errors import BuildFolderError
from deploy.stages.memory import peak_bytes, reset_peak
from deploy.stages.record import (
    StageRecord,
    is_intact,
    record_to_dict,
    records_from_manifest,
)

_LOG = logging.getLogger(__name__)

Planned = Mapping[str, Collection[str]]
"""Paths within the folder of all that a stage may write, by its name; the stages in their order."""


@dataclass(frozen=True)
class Made:
    """What a stage made.

    Attributes:
        files: What it wrote into the build folder.
        result: What it found out; plain data.
    """

    files: Sequence[Path]
    result: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """A stage that is yet to be run or taken over.

    Attributes:
        name: Its kind, and for a kind that comes several times what for: "compile.fp8.sm89".
        key: Of all that decides about what it makes; see `stage_key`.
        work: Makes it.
        holds: Whether what is there is still what `work` would make, where its files are as the
            manifest says and no key can tell; None where a key tells all.
        prepare: What `work` needs and what may fail, done before the earlier outcome is given up.
        doing: What the user is told meanwhile; None where `work` tells more itself.
    """

    name: str
    key: str
    work: Callable[[], Made]
    holds: Callable[[], bool] | None = None
    prepare: Callable[[], object] | None = None
    doing: str | None = None


class StageRun:
    """The stages of one build of a folder that this process holds."""

    def __init__(
        self,
        folder: BuildFolder,
        facts: Mapping[str, Any],
        planned: Planned,
        force: Collection[str],
        progress: Progress,
    ) -> None:
        """Read what an earlier build left, and remove what this one does not want.

        Args:
            folder: Where.
            facts: What the manifest says of the build as a whole.
            planned: The stages in the order in which they will run, and what each may write.
            force: Kinds of stages that run in any case.
            progress: Told what is being done.

        Raises:
            BuildFolderError: The folder cannot be written.
        """
        self._folder, self._facts = folder, facts
        self._planned, self._wanted = planned, tuple(planned)
        self._force, self._progress = force, progress
        for part in (folder.path / "onnx", folder.path / "engines"):
            make_folder(part)
        self._written, known, removable = _known(folder)
        self._removable = set(removable)
        self._records = {name: known[name] for name in self._wanted if name in known}
        for name in known.keys() - self._records.keys():
            self._removable.update(known[name].files)
        if self._records.keys() != known.keys() or not known:
            self._write(unfinished=self._wanted[0])
        self._remove(temporary_files(folder))
        # A journal checks itself, and an evaluation that was stopped goes on with it.
        self._clear(name for name in self._removable if not self._is_journal(name))

    @property
    def records(self) -> Mapping[str, StageRecord]:
        """The stages that are complete, of this build or an earlier one, in their order by name."""
        return {name: self._records[name] for name in self._wanted if name in self._records}

    @property
    def files(self) -> dict[str, Mapping[str, Any]]:
        """All files that the manifest vouches for, by their paths within the folder."""
        return {
            name: entry
            for record in self.records.values()
            for name, entry in sorted(record.files.items())
        }

    def run(self, stage: Stage) -> StageRecord:
        """Take a stage over where nothing of it has changed, else run it.

        Raises:
            ToolchainError: What the stage raises.
            BuildFolderError: The manifest cannot be written.
        """
        known = self._records.get(stage.name)
        if known is not None and self._stands(stage, known):
            _LOG.info("%s: unchanged, taken over", stage.name)
            self._records[stage.name] = replace(known, reused=True)
            return self._records[stage.name]
        if stage.prepare is not None:
            stage.prepare()
        self._records.pop(stage.name, None)
        before = {} if known is None else known.files
        begun = {*self._planned[stage.name], *before}
        self._removable |= begun
        self._write(unfinished=stage.name)
        if known is not None and self._is_forced(stage):
            # Not even an evaluation is to go on from what it had.
            self._remove(self._folder.path / name for name in before)
        counts = reset_peak()
        started = time.monotonic()
        if stage.doing is None:
            made = stage.work()
        else:
            with self._progress.status(stage.doing):
                made = stage.work()
        record = StageRecord(
            key=stage.key,
            seconds=round(time.monotonic() - started, 3),
            peak_memory_bytes=peak_bytes() if counts else None,
            reused=False,
            files=hash_files(self._folder, made.files),
            result=json.loads(json.dumps(made.result)),  # as a later build will read it
        )
        self._records[stage.name] = record
        self._write(unfinished=self._after(stage.name))
        self._clear(begun)
        _LOG.info("%s: %.1f s", stage.name, record.seconds)
        return record

    def finish(self) -> None:
        """Declare the build complete.

        Raises:
            BuildFolderError: The manifest cannot be written.
        """
        # Journals of precisions that are gone, and of evaluations that were stopped before this.
        self._clear(self._removable)
        self._write(unfinished=None)

    def _stands(self, stage: Stage, known: StageRecord) -> bool:
        return (
            known.key == stage.key
            and not self._is_forced(stage)
            and is_intact(self._folder, known)
            and (stage.holds is None or stage.holds())
        )

    def _is_forced(self, stage: Stage) -> bool:
        return stage.name.partition(".")[0] in self._force

    def _after(self, name: str) -> str:
        following = self._wanted[self._wanted.index(name) + 1 :]
        return following[0] if following else name

    def _write(self, unfinished: str | None) -> None:
        content = {
            **self._facts,
            "wanted": self._wanted,
            "unfinished": unfinished,
            "stages": {name: record_to_dict(record) for name, record in self.records.items()},
            "files": self.files,
            REMOVABLE: sorted(self._removable - self.files.keys()),
        }
        text = canonical(content)
        if text != self._written:
            write_manifest(self._folder, content)
            self._written = text

    def _is_journal(self, name: str) -> bool:
        return (self._folder.path / name).parent == self._folder.journals

    def _clear(self, names: Iterable[str]) -> None:
        """Remove what of these is not vouched for; the manifest written next forgets them."""
        names = set(names)
        self._remove(self._folder.path / name for name in names - self.files.keys())
        self._removable -= names

    def _remove(self, paths: Iterable[Path]) -> None:
        for path in paths:
            if path.is_dir():  # whatever it was, it is the user's now
                continue
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise not_writable(path, error) from error


def _known(folder: BuildFolder) -> tuple[bytes, dict[str, StageRecord], Sequence[str]]:
    """What the manifest says, its stages, and `removable`; nothing where it cannot be believed."""
    if not folder.manifest.exists():
        return b"", {}, ()
    try:
        manifest = read_manifest(folder)
    except BuildFolderError as error:
        _LOG.warning("%s: everything is built again", error.message)
        return b"", {}, ()
    content = {
        name: value
        for name, value in manifest.items()
        if name not in ("schema_version", "manifest_sha256")
    }
    outdated = left_behind(folder, manifest)
    records = {
        # Without a key it runs again; what it has measured still holds.
        name: replace(record, key="") if outdated & record.files.keys() else record
        for name, record in records_from_manifest(settle(folder, manifest)).items()
    }
    return canonical(content), records, manifest.get(REMOVABLE, ())
