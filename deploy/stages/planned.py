"""The files that a build is going to write, known before it writes any."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from calib_data.errors import UsageError
from deploy.artifacts import BuildFolder, read_manifest, written_names
from deploy.config import DEMO, BuildConfig
from deploy.engine.session import Backend, Precision
from deploy.errors import BuildFolderError
from deploy.evaluation.stage import journal_path
from deploy.inputs import BuildInputs
from deploy.stages.calibrate import CALIBRATE
from deploy.stages.compile import stage_name
from deploy.stages.evaluate import EVALUATE
from deploy.stages.export import EXPORT, tokenizer_names
from deploy.stages.quantize import QUANTIZE
from deploy.stages.report import REPORT
from deploy.stages.run import Planned

# Of files that an error lists.
_NAMED = 5


def planned_files(config: BuildConfig, folder: BuildFolder, inputs: BuildInputs) -> Planned:
    """The stages of a build, and what each may write; some of it only on some machines."""
    calibrated = [each for each in config.precision if each.calibrated]
    stages = {
        EXPORT: [
            *_model(folder, Precision.FP32),
            *(folder.tokenizer / name for name in tokenizer_names(inputs.checkpoint.tokenizer)),
        ]
    }
    if calibrated:
        stages[CALIBRATE] = [folder.calibration]
    for precision in calibrated:
        stages[f"{QUANTIZE}.{precision.value}"] = _model(folder, precision)
    if inputs.flavour is not None:
        for precision in config.precision:
            for target in inputs.targets:
                stages[stage_name(precision, target)] = [
                    folder.plan(precision.value, target),
                    folder.plan_info(precision.value, target),
                    folder.layers(precision.value, target),
                ]
    stages[EVALUATE] = [
        folder.examples,
        *(
            journal_path(folder, precision, backend)
            for precision in {Precision.FP32, *config.precision}
            for backend in Backend
        ),
    ]
    stages[REPORT] = [folder.results, folder.report_html, folder.report]
    return {name: frozenset(map(folder.name, paths)) for name, paths in stages.items()}


def check_apart(model: str, out: Path) -> None:
    """Refuse to build into a local checkpoint, which the next build would read for one.

    Raises:
        UsageError: `out` is the folder `model`.
    """
    if model != DEMO and Path(model).is_dir() and out.resolve() == Path(model).resolve():
        raise UsageError(
            f"--out '{out}' is the checkpoint, '{model}', where no build writes",
            "give --out another folder; one within it will do",
        )


def check_clear(folder: BuildFolder, planned: Planned) -> None:
    """Refuse to write over what no build of this folder has written; writes nothing itself.

    Raises:
        BuildFolderError: Files, or folders, are in the way.
    """
    names = [folder.name(folder.manifest), *(name for each in planned.values() for name in each)]
    _check_kinds(folder, names)
    # In this order: whatever another build is writing, its manifest knows before it is there.
    there = [name for name in names if os.path.lexists(folder.path / name)]
    theirs = sorted(set(there) - _ours(folder, names))
    if theirs:
        more = len(theirs) - _NAMED
        shown = ", ".join(theirs[:_NAMED]) + (f" and {more} more" if more > 0 else "")
        raise BuildFolderError(
            f"'{folder.path}' has files that this build would write over, and that no build of "
            f"this folder has written: {shown}",
            "give --out another folder, or move these files",
        )


def _model(folder: BuildFolder, precision: Precision) -> list[Path]:
    path = folder.onnx(precision.value)
    return [path, path.with_name(f"{path.name}.data")]


def _check_kinds(folder: BuildFolder, names: Iterable[str]) -> None:
    for name in names:
        path = folder.path / name
        if path.is_dir():
            raise _in_the_way(path, "a folder, where a build writes a file")
        if os.path.lexists(path.parent) and not path.parent.is_dir():
            raise _in_the_way(path.parent, "a file, where a build makes a folder")


def _in_the_way(path: Path, what: str) -> BuildFolderError:
    return BuildFolderError(f"'{path}' is {what}", f"give --out another folder, or move '{path}'")


def _ours(folder: BuildFolder, names: Iterable[str]) -> set[str]:
    """Those files, of these names and others, that a build of this folder has written."""
    manifest = folder.name(folder.manifest)
    try:
        return {manifest, *written_names(read_manifest(folder))}
    except BuildFolderError:
        # A manifest that is damaged, or of another version, vouches for nothing, but tells whose
        # folder it is: everything is built again. Another program's manifest.json does not.
        return set(names) if _is_of_a_build(folder) else set()


def _is_of_a_build(folder: BuildFolder) -> bool:
    try:
        return b'"schema_version"' in folder.manifest.read_bytes()
    except OSError:
        return False
