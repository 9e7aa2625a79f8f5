"""The build folder: the unit that a user moves, checks and ships."""

from deploy.artifacts.hashes import file_hashes, hash_files, sha256
from deploy.artifacts.layout import (
    BuildFolder,
    own_files,
    temporary_files,
)
from deploy.artifacts.lock import Holder, check_not_held, hold_folder, read_holder
from deploy.artifacts.manifest import (
    MANIFEST_VERSION,
    REMOVABLE,
    canonical,
    check_finished,
    check_listed,
    forget_files,
    is_listed,
    left_behind,
    read_manifest,
    settle,
    update_manifest,
    write_manifest,
    written_names,
)
from deploy.artifacts.reading import read_json
from deploy.artifacts.replacing import replace_files
from deploy.artifacts.results import SCHEMA_VERSION, check_built, read_results
from deploy.artifacts.writing import (
    check_writable,
    json_text,
    make_folder,
    write_bytes,
    write_json,
    write_text,
)

__all__ = [
    "MANIFEST_VERSION",
    "REMOVABLE",
    "SCHEMA_VERSION",
    "BuildFolder",
    "Holder",
    "canonical",
    "check_built",
    "check_finished",
    "check_listed",
    "check_not_held",
    "check_writable",
    "file_hashes",
    "forget_files",
    "hash_files",
    "hold_folder",
    "is_listed",
    "json_text",
    "left_behind",
    "make_folder",
    "own_files",
    "read_holder",
    "read_json",
    "read_manifest",
    "read_results",
    "replace_files",
    "settle",
    "sha256",
    "temporary_files",
    "update_manifest",
    "write_bytes",
    "write_json",
    "write_manifest",
    "write_text",
    "written_names",
]
