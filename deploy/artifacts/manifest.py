"""manifest.json: what a build was asked for, how far it came, and what every file of it was.

schema_version, config, model_fingerprint, data_fingerprint, calibration_fingerprint, environment
wanted            names of all stages, in their order
unfinished        the stage in progress; null once the build is complete
stages.<name>     {key, seconds, peak_memory_bytes, reused, files, result}; see deploy.stages
files.<path>      {bytes, sha256}, and `next`, the same of what it is about to become
removable         paths that no stage vouches for and a build may remove: of a stage that has begun
                  and not ended, or given up; whatever else lies in the folder is the user's
manifest_sha256   over the rest, as `canonical` writes it
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from calib_data.redact import redact
from deploy.artifacts.hashes import hash_files, sha256
from deploy.artifacts.layout import BuildFolder
from deploy.artifacts.reading import read_json
from deploy.artifacts.writing import write_json
from deploy.errors import BuildFolderError
from deploy.paths import inside
from deploy.structure import count, flag, mapping, optional, quantity, record, sequence, text

MANIFEST_VERSION = 2

NEXT = "next"

REMOVABLE = "removable"

_CHECKSUM = "manifest_sha256"

_engine = record({"precision": text, "target": text, "flavour": text, "file": text})

_stage = record(
    {
        "key": text,
        "seconds": quantity,
        "peak_memory_bytes": optional(count),
        "reused": flag,
        "files": sequence(text),
        "result": record(
            {}, {"engine": _engine, "model_fingerprint": text, "data_fingerprint": text}
        ),
    }
)

_entry = {"bytes": count, "sha256": text}

_manifest = record(
    {
        "config": record({"model": text, "task": text, "precision": sequence(text)}),
        "model_fingerprint": text,
        "data_fingerprint": text,
        "calibration_fingerprint": optional(text),
        "wanted": sequence(text, least=1),
        "unfinished": optional(text),
        "stages": mapping(_stage),
        "files": mapping(record(_entry, {NEXT: record(_entry)})),
    },
    {REMOVABLE: sequence(text)},
)


def canonical(plain: Any) -> bytes:
    """Plain data as the one JSON text that a hash is taken over."""
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("utf-8")


def write_manifest(folder: BuildFolder, content: Mapping[str, Any]) -> None:
    """Write manifest.json with its version and its checksum.

    Raises:
        BuildFolderError: The disk is full, or the folder cannot be written.
    """
    # The checksum is of what is written, and secrets are not.
    text = redact(json.dumps({"schema_version": MANIFEST_VERSION, **_without_checksum(content)}))
    body = json.loads(text)
    write_json(folder.manifest, {**body, _CHECKSUM: _checksum(body)})


def read_manifest(folder: BuildFolder) -> dict[str, Any]:
    """Read manifest.json, if it is exactly what was written.

    Raises:
        BuildFolderError: It is missing, damaged or of another version, or a file that it names lies
            outside of the folder.
    """
    manifest = read_json(folder.manifest)
    remedy = "build it again with `deploy build`"
    if not isinstance(manifest, dict):
        raise BuildFolderError(f"'{folder.manifest}' is no manifest", remedy)
    version = manifest.get("schema_version")
    if version != MANIFEST_VERSION:
        raise BuildFolderError(
            f"'{folder.manifest}' has schema version {version}, not {MANIFEST_VERSION}", remedy
        )
    if manifest.get(_CHECKSUM) != _checksum(_without_checksum(manifest)):
        raise BuildFolderError(f"'{folder.manifest}' is damaged: its checksum differs", remedy)
    try:
        _manifest(manifest, "")
        for problem in _contradictions(manifest):
            raise ValueError(problem)
    except ValueError as error:
        raise BuildFolderError(f"'{folder.manifest}' is damaged: {error}", remedy) from error
    for name in (*manifest["files"], *manifest.get(REMOVABLE, ())):
        inside(folder.path, name)
    return manifest


def written_names(manifest: Mapping[str, Any]) -> set[str]:
    """Files that this folder's commands have written, or begun to; all others are a user's."""
    return {*manifest["files"], *manifest.get(REMOVABLE, ())}


def check_finished(folder: BuildFolder) -> dict[str, Any]:
    """Read the manifest of a complete build.

    Raises:
        BuildFolderError: As `read_manifest`, or the build was stopped.
    """
    manifest = read_manifest(folder)
    if manifest["unfinished"] is not None:
        raise BuildFolderError(
            f"the build of '{folder.path}' is not complete: it stopped in {manifest['unfinished']}",
            "run its `deploy build` again: it goes on there",
        )
    return manifest


def check_listed(folder: BuildFolder, manifest: Mapping[str, Any], path: Path) -> None:
    """Refuse a file of a build that is not what the manifest says.

    Raises:
        BuildFolderError: It is missing, has changed, or is not listed.
    """
    listed = manifest["files"].get(folder.name(path))
    if listed is None or not path.is_file() or not is_listed(path, listed):
        raise BuildFolderError(
            f"'{path}' is not the file that the manifest lists", "build it again"
        )


def is_listed(path: Path, entry: Mapping[str, Any]) -> bool:
    """Whether a file is what its entry says, or what it says that it is about to become.

    Raises:
        OSError: It cannot be read.
    """
    known = (entry, entry[NEXT]) if NEXT in entry else (entry,)
    size = path.stat().st_size
    if all(size != each["bytes"] for each in known):
        return False
    return sha256(path) in [each["sha256"] for each in known]


def settle(folder: BuildFolder, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest that says what each file is, after a process that replaced files was stopped."""
    files = {}
    for name, entry in manifest["files"].items():
        now = {key: value for key, value in entry.items() if key != NEXT}
        with suppress(OSError):  # what is missing or cannot be read is for others to tell
            if NEXT in entry and is_listed(folder.path / name, entry[NEXT]):
                now = dict(entry[NEXT])
        files[name] = now
    return {**manifest, "files": files}


def left_behind(folder: BuildFolder, manifest: Mapping[str, Any]) -> set[str]:
    """Files that were to be replaced and are still the old ones, while others are new already."""
    old: set[str] = set()
    new: set[str] = set()
    for name, entry in manifest["files"].items():
        if NEXT in entry:
            with suppress(OSError):
                path = folder.path / name
                (new if is_listed(path, entry[NEXT]) else old).add(name)
    return old if new else set()


def list_files(manifest: dict[str, Any], entries: Mapping[str, Any], stage: str) -> None:
    """Let a manifest vouch for files: those that no stage has become that stage's."""
    files, plain = manifest["files"], manifest["stages"][stage]
    plain["files"] = sorted({*plain["files"], *(entries.keys() - files.keys())})
    files.update(entries)
    manifest[REMOVABLE] = sorted(set(manifest.get(REMOVABLE, ())) - files.keys())


def update_manifest(folder: BuildFolder, written: Iterable[Path], stage: str = "report") -> None:
    """Bring the manifest up to date on files of a finished build that were written again.

    Args:
        folder: The build.
        written: Files in it.
        stage: Whose files they are, where no stage has them yet.

    Raises:
        BuildFolderError: The manifest is missing or damaged, or cannot be written.
    """
    manifest = read_manifest(folder)
    list_files(manifest, hash_files(folder, written), stage)
    write_manifest(folder, manifest)


def forget_files(folder: BuildFolder, names: Iterable[str]) -> None:
    """Let the manifest of a finished build vouch no more for files that are about to be written.

    Raises:
        BuildFolderError: The manifest is missing or damaged, or cannot be written.
    """
    manifest = read_manifest(folder)
    gone, known = set(names), manifest.get(REMOVABLE, ())
    if gone <= set(known):
        return
    for name in gone & manifest["files"].keys():
        del manifest["files"][name]
    for plain in manifest["stages"].values():
        plain["files"] = [name for name in plain["files"] if name not in gone]
    manifest[REMOVABLE] = sorted({*known, *gone})
    write_manifest(folder, manifest)


def _contradictions(manifest: Mapping[str, Any]) -> Iterator[str]:
    """What the parts of a manifest say against each other."""
    wanted, stages = manifest["wanted"], manifest["stages"]
    yield from (f"{name} is no stage of the build" for name in stages if name not in wanted)
    unfinished = manifest["unfinished"]
    if unfinished is None:
        yield from (
            f"{name} is missing, and nothing unfinished" for name in wanted if name not in stages
        )
    elif unfinished not in wanted:
        yield f"{unfinished} is unfinished, and no stage of the build"
    listed = [name for plain in stages.values() for name in plain["files"]]
    for name in dict.fromkeys([*manifest["files"], *listed]):
        if name not in manifest["files"] or listed.count(name) != 1:
            yield f"'{name}' is not one file of one stage"


def _without_checksum(content: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name != _CHECKSUM}


def _checksum(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical(body)).hexdigest()
