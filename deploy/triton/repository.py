"""A model repository on disk, replaced model by model while a server may be reading it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from deploy.artifacts import SCHEMA_VERSION, read_json, write_json
from deploy.errors import BuildFolderError

# What of the repository is ours. Triton looks into folders only.
_INDEX = "deploy.json"

ModelFiles = Mapping[str, Path | bytes]
"""A model's files by their paths within its folder: content, or a file to be linked or copied."""


@dataclass(frozen=True)
class Owned:
    """What earlier calls wrote into a repository.

    Attributes:
        models: Names of the models, by the name that a call gave them in common.
    """

    models: Mapping[str, tuple[str, ...]]


def _check_repository(path: Path, name: str, models: tuple[str, ...]) -> Owned:
    """Find out whether models may be written.

    Args:
        path: The repository; it need not exist.
        name: What the models have in common.
        models: Their names.

    Raises:
        BuildFolderError: There is something that `deploy triton` did not write, or that it wrote
            under another name.
    """
    if not path.exists():
        return Owned({})
    if not path.is_dir():
        raise BuildFolderError(f"'{path}' is not a folder", "give --repository a folder")
    owned = _read_index(path)
    if not owned.models and any(entry.name != _INDEX for entry in path.iterdir()):
        raise BuildFolderError(
            f"'{path}' is not empty, and `deploy triton` did not write what it holds",
            "give --repository a new or empty folder, and move the models from there",
        )
    mine = owned.models.get(name, ())
    for model in models:
        if (path / model).exists() and model not in mine:
            raise BuildFolderError(
                f"'{path / model}' is there already, and not of --name {name}",
                "give another --name, or another --repository",
            )
    return owned


def write_models(path: Path, name: str, models: Mapping[str, ModelFiles]) -> None:
    """Write models whole, each in place of its predecessor; remove those no longer among them.

    A model is made in a folder beside the repository, where a polling server does not look, and
    renamed into it, in the order given.

    Args:
        path: The repository, made where needed.
        name: What the models have in common.
        models: Files of each, by the model's name.

    Raises:
        BuildFolderError: The repository cannot be written, or holds what is not ours.
    """
    owned = _check_repository(path, name, tuple(models))
    before = owned.models.get(name, ())
    with _writing(path):
        path.mkdir(parents=True, exist_ok=True)
        # First what may be there after an interrupt, so that the next call may replace it.
        _write_index(path, owned, name, tuple(dict.fromkeys((*before, *models))))
        with _staging(path) as staging:
            for model, files in models.items():
                for relative, source in files.items():
                    _place(source, staging / "new" / model / relative)
            for model in models:
                _retire(path / model, staging)
                (staging / "new" / model).rename(path / model)
            for model in before:
                if model not in models:
                    _retire(path / model, staging)
        _write_index(path, owned, name, tuple(models))


@contextmanager
def _staging(path: Path) -> Iterator[Path]:
    """A folder on the repository's file system; what is in it at the end is removed."""
    # A mounted volume's parent is another file system, into which nothing can be renamed.
    parent = path if path.is_mount() else path.absolute().parent
    folder = parent / f".{path.name}.{uuid4().hex}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _retire(model: Path, staging: Path) -> None:
    if model.exists():
        (staging / "old").mkdir(exist_ok=True)
        model.rename(staging / "old" / model.name)


def _place(source: Path | bytes, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(source, Path):
        # A build replaces its files by renaming, never in place, so a link keeps its content.
        with suppress(OSError):
            os.link(source, path)
            return
        shutil.copyfile(source, path)
    else:
        path.write_bytes(source)
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _read_index(path: Path) -> Owned:
    index = path / _INDEX
    if not index.exists():
        return Owned({})
    try:
        plain = read_json(index)
        if plain["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema version {plain['schema_version']}, not {SCHEMA_VERSION}")
        return Owned({name: tuple(models) for name, models in plain["models"].items()})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BuildFolderError(
            f"'{index}' does not say what the repository holds: {error}",
            "give --repository a new folder",
        ) from error


def _write_index(path: Path, owned: Owned, name: str, models: tuple[str, ...]) -> None:
    listed: dict[str, Any] = {**owned.models, name: models}
    write_json(path / _INDEX, {"schema_version": SCHEMA_VERSION, "models": listed})


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BuildFolderError(
            f"cannot write '{error.filename or path}': {error.strerror or error}",
            "give --repository a folder that this user may write, on a disk with room",
        ) from error
