"""Replace files of a finished build, which its manifest vouches for at every moment.

The new files are written beside their final names, the manifest says what each is about to become,
then they are renamed. Whatever ends this in between, each file is the old or the new one, and the
manifest knows both; `left_behind` tells which are old beside new ones. A disk that is full ends it
before any is renamed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from deploy.artifacts.layout import BuildFolder
from deploy.artifacts.manifest import NEXT, list_files, read_manifest, settle, write_manifest
from deploy.artifacts.writing import put_in_place, text_bytes, written_beside


def replace_files(folder: BuildFolder, contents: Mapping[Path, str], stage: str = "report") -> None:
    """Write files of a finished build again.

    Args:
        folder: The build.
        contents: Text by file, without secrets or with what `redact` takes out.
        stage: Whose files they are, where no stage has them yet.

    Raises:
        BuildFolderError: The manifest is missing or damaged, or the folder cannot be written.
    """
    new = {path: text_bytes(content) for path, content in contents.items()}
    entries = {
        folder.name(path): {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for path, content in new.items()
    }
    manifest = settle(folder, read_manifest(folder))
    files = manifest["files"]
    with ExitStack() as stack:
        beside = {
            path: stack.enter_context(written_beside(path, content))
            for path, content in new.items()
        }
        for name in entries.keys() & files.keys():
            if files[name] != entries[name]:  # else it would count as replaced before it is
                files[name][NEXT] = entries[name]
        write_manifest(folder, manifest)
        for path, temporary in beside.items():
            put_in_place(temporary, path)
    list_files(manifest, entries, stage)
    write_manifest(folder, manifest)
