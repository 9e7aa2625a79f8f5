"""The build: checkpoint -> ONNX -> calibration -> Q/DQ -> engines -> evaluation -> results."""

from __future__ import annotations

import gc
from collections.abc import Collection
from functools import cache
from typing import Any

from calib_data.progress import Progress, SilentProgress
from calib_data.sampler import CalibrationSet, fingerprint
from deploy.artifacts import BuildFolder, check_writable, hold_folder, read_results
from deploy.config import BuildConfig, StageKind, config_to_dict
from deploy.environment import describe_environment
from deploy.inputs import BuildInputs, load_inputs
from deploy.logs import build_log
from deploy.stages.calibrate import calibrate_stage, calibration_rows
from deploy.stages.compile import compile_stage
from deploy.stages.evaluate import evaluate_stage
from deploy.stages.export import export_stage
from deploy.stages.planned import check_apart, check_clear, planned_files
from deploy.stages.quantize import quantize_stage
from deploy.stages.report import report_stage
from deploy.stages.run import StageRun
from export.calibration_table import CalibrationTable, read_table
from export.checkpoint import Checkpoint, load_weights
from export.precision import FloatType
from export.wide import warn_of_wide_tensors


def build(
    config: BuildConfig, progress: Progress | None = None, force: Collection[StageKind] = ()
) -> dict[str, Any]:
    """Run a build into `config.out`, as far as the folder does not have it already.

    Args:
        config: What to build.
        progress: Told about everything that takes over a second.
        force: Kinds of stages that run even where nothing has changed.

    Returns:
        The content of results.json. Gates that do not hold stand in it; they raise nothing.

    Raises:
        ToolchainError: Whatever the user has to mend; see its remedy.
    """
    progress = progress or SilentProgress()
    check_writable(config.out)
    check_apart(config.model, config.out)
    inputs = load_inputs(config, progress)
    calibrates = any(precision.calibrated for precision in config.precision)
    rows = calibration_rows(config, inputs, progress) if calibrates else None
    folder = BuildFolder(config.out)
    planned = planned_files(config, folder, inputs)
    check_clear(folder, planned)
    with hold_folder(config.out), build_log(config.out):
        run = StageRun(
            folder,
            facts=_facts(config, inputs, rows),
            planned=planned,
            force=force,
            progress=progress,
        )
        _make_models(config, folder, inputs, rows, run, progress)
        _make_engines(config, folder, inputs, run, progress)
        run.run(evaluate_stage(config, folder, inputs, run.files, progress))
        run.run(report_stage(config, folder, inputs, run.records, run.files))
        run.finish()
        return read_results(folder)


def _facts(config: BuildConfig, inputs: BuildInputs, rows: CalibrationSet | None) -> dict[str, Any]:
    """What the manifest says of the build as a whole."""
    return {
        "config": config_to_dict(config),
        "model_fingerprint": inputs.checkpoint.fingerprint,
        "data_fingerprint": fingerprint(inputs.dev.features),
        "calibration_fingerprint": None if rows is None else rows.fingerprint,
        "environment": describe_environment(),
    }


def _make_models(
    config: BuildConfig,
    folder: BuildFolder,
    inputs: BuildInputs,
    rows: CalibrationSet | None,
    run: StageRun,
    progress: Progress,
) -> None:
    """The FP32 model, and every other precision that is derived from it."""

    @cache
    def weights() -> Checkpoint:
        with progress.status(f"Loading {config.model}"):
            return load_weights(inputs.checkpoint)

    run.run(export_stage(folder, inputs, weights))
    if rows is None:  # nothing but FP32 was asked for
        return
    run.run(calibrate_stage(folder, inputs, rows, weights, progress))
    if weights.cache_info().currsize:
        # Nothing needs them any more, and they are as large as a model gets.
        weights.cache_clear()
        gc.collect()

    @cache
    def table() -> CalibrationTable:
        return read_table(folder.calibration, inputs.checkpoint.fingerprint)

    @cache
    def table_for(carried: FloatType) -> CalibrationTable:
        warn_of_wide_tensors(table().carried, carried)  # once, for all precisions
        return table()

    for precision in config.precision:
        if precision.calibrated:
            run.run(quantize_stage(config, folder, precision, run.files, table_for))


def _make_engines(
    config: BuildConfig,
    folder: BuildFolder,
    inputs: BuildInputs,
    run: StageRun,
    progress: Progress,
) -> None:
    if inputs.flavour is None:
        return
    for precision in config.precision:
        for target in inputs.targets:
            run.run(
                compile_stage(
                    config, folder, inputs, inputs.flavour, precision, target, run.files, progress
                )
            )
