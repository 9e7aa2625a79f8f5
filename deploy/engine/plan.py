"""What a plan file is, written beside it, and checked before anything reads it.

A plan is code: whoever deserialises one runs it. So a plan is loaded only out of its build folder,
after its hash was found in the manifest, and after everything that a TensorRT runtime would refuse
it for.
"""

from __future__ import annotations

import hashlib
import logging
import re
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from calib_data.parsing import parse_json
from deploy.artifacts import (
    SCHEMA_VERSION,
    BuildFolder,
    read_manifest,
    write_bytes,
    write_json,
)
from deploy.engine.builder import Flavour, HardwareCompatibility, import_flavour
from deploy.engine.profiles import Profile, Shape
from deploy.engine.session import Precision
from deploy.environment import find_gpus
from deploy.errors import BuildFolderError, EngineError, PlanError
from deploy.rebuild import build_command
from deploy.structure import count, flag, optional, record, sequence, some, text

_LOG = logging.getLogger(__name__)

# The oldest compute capability that AMPERE_PLUS covers.
_AMPERE = 80


@dataclass(frozen=True)
class PlanInfo:
    """What a plan is.

    Attributes:
        sha256: Of the plan, in hexadecimal.
        bytes: Size of the plan.
        precision: Of the model.
        recipe: Name of its recipe; None where nothing is quantized.
        flavour: Which TensorRT built it.
        tensorrt_version: Version of that TensorRT.
        target: Compute capability that it runs on, such as "sm90".
        gpu: Name of the GPU it was tuned on; None where it was built without one.
        driver: Version of that GPU's driver; None without one.
        profiles: Optimization profiles, by their indexes in the engine.
        pad_token_id: What `input_ids` are padded with.
        hardware_compatibility: Which other GPUs may run it.
        version_compatible: Whether later TensorRT releases of the same major version load it.
    """

    sha256: str
    bytes: int
    precision: Precision
    recipe: str | None
    flavour: Flavour
    tensorrt_version: str
    target: str
    gpu: str | None
    driver: str | None
    profiles: tuple[Profile, ...]
    pad_token_id: int
    hardware_compatibility: HardwareCompatibility = HardwareCompatibility.NONE
    version_compatible: bool = False


def write_plan(folder: BuildFolder, info: PlanInfo, plan: bytes) -> Path:
    """Write a plan, then its sidecar, into a build folder.

    The manifest takes up the hashes of both when the build is complete; until then neither loads.

    Returns:
        Where the plan lies.

    Raises:
        BuildFolderError: The disk is full, or the folder cannot be written.
    """
    path = folder.plan(info.precision.value, info.target)
    write_bytes(path, plan)
    write_json(folder.plan_info(info.precision.value, info.target), plan_info_to_dict(info))
    return path


def load_plan(folder: BuildFolder, precision: Precision, target: str) -> tuple[PlanInfo, bytes]:
    """Read a plan that is whole, that the manifest knows, and that this machine can run.

    Args:
        folder: The build folder it belongs to.
        precision: Of the model.
        target: Compute capability in its file name, such as "sm90".

    Raises:
        PlanError: Anything is not as it should be; the remedy is the command that rebuilds.
    """
    info, plan, remedy = _read_plan(folder, precision, target)
    path = folder.plan(precision.value, target)
    _check_version(path, info, remedy)
    _check_gpu(path, info, remedy)
    return info, plan


def read_plan_info(folder: BuildFolder, precision: Precision, target: str) -> PlanInfo:
    """What a plan is that is whole and that the manifest knows, wherever it is to run.

    Raises:
        PlanError: It, or its sidecar, is missing, damaged or unknown.
    """
    return _read_plan(folder, precision, target)[0]


def claimed_flavour(folder: BuildFolder, precision: Precision, target: str) -> Flavour | None:
    """Which TensorRT a plan is said to be of, its content unseen; None where there is no plan.

    Raises:
        PlanError: It has no sidecar that says so.
    """
    path, sidecar = folder.plan(precision.value, target), folder.plan_info(precision.value, target)
    if not path.is_file():
        return None
    files, command = _listed_files(folder, path)
    remedy = f"build it again: {command}"
    return _parse_info(sidecar, _read_listed(folder, files, sidecar, remedy), remedy).flavour


def plan_info_to_dict(info: PlanInfo) -> dict[str, Any]:
    """The sidecar's content."""
    return {"schema_version": SCHEMA_VERSION, **asdict(info)}


_SHAPE = record({"batch": some, "sequence": some})

_STRUCTURE = record(
    {
        "sha256": text,
        "bytes": count,
        "recipe": optional(text),
        "tensorrt_version": text,
        "target": text,
        "gpu": optional(text),
        "driver": optional(text),
        "profiles": sequence(record({"min": _SHAPE, "opt": _SHAPE, "max": _SHAPE}), least=1),
        "pad_token_id": count,
        "version_compatible": flag,
    }
)


def plan_info_from_dict(plain: Mapping[str, Any]) -> PlanInfo:
    """Read a sidecar's content.

    Raises:
        ValueError: It is of another version, or a value is impossible.
        KeyError: A field is missing.
        TypeError: A field is of another type.
    """
    if plain["schema_version"] != SCHEMA_VERSION:
        raise ValueError(f"schema version {plain['schema_version']}, not {SCHEMA_VERSION}")
    _STRUCTURE(plain, "")
    values = {field.name: plain[field.name] for field in fields(PlanInfo)}
    values["precision"] = Precision(values["precision"])
    values["flavour"] = Flavour(values["flavour"])
    values["hardware_compatibility"] = HardwareCompatibility(values["hardware_compatibility"])
    values["profiles"] = tuple(
        Profile(*(Shape(**profile[name]) for name in ("min", "opt", "max")))
        for profile in values["profiles"]
    )
    return PlanInfo(**values)


def _read_plan(
    folder: BuildFolder, precision: Precision, target: str
) -> tuple[PlanInfo, bytes, str]:
    """A plan that the manifest vouches for, and the command that builds it again."""
    path = folder.plan(precision.value, target)
    sidecar = folder.plan_info(precision.value, target)
    files, command = _listed_files(folder, path)
    remedy = f"build it again: {command}"
    info = _parse_info(sidecar, _read_listed(folder, files, sidecar, remedy), remedy)
    plan = _read_listed(folder, files, path, remedy)
    if hashlib.sha256(plan).hexdigest() != info.sha256:
        raise PlanError(f"'{sidecar}' describes another plan than '{path}'", remedy)
    return info, plan, remedy


def _listed_files(folder: BuildFolder, path: Path) -> tuple[Mapping[str, Any], str]:
    """The manifest's hashes by file, and the command that builds the folder again."""
    try:
        manifest = read_manifest(folder)
    except BuildFolderError as error:
        raise PlanError(
            f"'{path}' has no manifest that vouches for it, so it is not loaded: {error}",
            f"build it again: deploy build … --out {shlex.quote(str(folder.path))}",
        ) from error
    return dict(manifest["files"]), build_command(manifest["config"], folder.path)


def _read_listed(folder: BuildFolder, files: Mapping[str, Any], path: Path, remedy: str) -> bytes:
    """Read a file that is exactly what the manifest says."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PlanError(f"cannot read '{path}': {error.strerror}", remedy) from error
    listed = files.get(path.relative_to(folder.path).as_posix())
    if not isinstance(listed, Mapping):
        raise PlanError(f"'{path}' is not in the manifest, so it is not loaded", remedy)
    if len(content) != listed.get("bytes"):
        raise PlanError(
            f"'{path}' has {len(content)} bytes; it was built with {listed.get('bytes')}", remedy
        )
    if hashlib.sha256(content).hexdigest() != listed.get("sha256"):
        raise PlanError(f"'{path}' has changed since it was built: its sha256 differs", remedy)
    return content


def _parse_info(path: Path, content: bytes, remedy: str) -> PlanInfo:
    try:
        return plan_info_from_dict(parse_json(content))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PlanError(f"'{path}' does not describe a plan: {error!r}", remedy) from error


def _check_version(path: Path, info: PlanInfo, remedy: str) -> None:
    try:
        installed = str(import_flavour(info.flavour).__version__)
    except EngineError as error:
        raise PlanError(
            f"'{path}' needs {info.flavour.value}: {error.message}", error.remedy
        ) from (error)
    if installed == info.tensorrt_version:
        return
    built, here = _numbers(info.tensorrt_version), _numbers(installed)
    if info.version_compatible and built[:1] == here[:1] and built <= here:
        return
    raise PlanError(
        f"'{path}' was built by {info.flavour.value} {info.tensorrt_version}, here is {installed}",
        remedy
        if info.flavour is Flavour.TENSORRT_RTX
        else f"{remedy}; with --version-compatible later releases load it too",
    )


def _check_gpu(path: Path, info: PlanInfo, remedy: str) -> None:
    gpus = find_gpus()
    if not gpus:
        raise PlanError(
            f"'{path}' runs on {info.target}, and no NVIDIA GPU is visible here",
            "use --backend onnxruntime, or go to a machine with the GPU",
        )
    here = gpus[0]
    if info.hardware_compatibility is HardwareCompatibility.AMPERE_PLUS:
        suits = _capability(here.target) >= _AMPERE
    else:
        suits = here.target == info.target
    if not suits:
        raise PlanError(
            f"'{path}' was built for {info.target}, and this GPU ({here.name}) is {here.target}",
            remedy,
        )
    tuned_for = info.gpu if info.hardware_compatibility is HardwareCompatibility.NONE else None
    if tuned_for is not None and tuned_for != here.name:
        raise PlanError(
            f"'{path}' was tuned on {tuned_for}, and this is {here.name}",
            f"{remedy}; with --hardware-compatibility same-compute-capability one plan serves both",
        )
    if info.driver is not None and info.driver != here.driver:
        _LOG.info("'%s' was tuned under driver %s, here is %s", path, info.driver, here.driver)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))


def _capability(target: str) -> int:
    return int(target.removeprefix("sm"))
