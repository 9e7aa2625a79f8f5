"""Calibrate: checkpoint and training rows -> the ranges that every precision is derived from."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict

from calib_data.features import tokenize
from calib_data.progress import Progress
from calib_data.sampler import CalibrationSet, fingerprint, sample_examples
from deploy.artifacts import BuildFolder, write_text
from deploy.config import BuildConfig
from deploy.inputs import BuildInputs
from deploy.results import calibration_to_dict
from deploy.stages.keys import stage_key, versions_of
from deploy.stages.run import Made, Stage
from export.calibrate import calibrate, calibration_source
from export.calibration_table import VERSION, table_to_json
from export.checkpoint import Checkpoint

_LOG = logging.getLogger(__name__)

CALIBRATE = "calibrate"


def calibration_rows(
    config: BuildConfig, inputs: BuildInputs, progress: Progress
) -> CalibrationSet:
    """The rows to calibrate on: the first that `split_sample` draws with the build's seed."""
    examples = sample_examples(inputs.train, config.calib_samples, config.seed)
    if len(examples) < config.calib_samples:
        _LOG.warning(
            "calibrating on %d examples, all there are: --calib-samples asks for %d",
            len(examples),
            config.calib_samples,
        )
    features = tokenize(
        inputs.task, inputs.checkpoint.tokenizer, examples, inputs.max_length, progress
    )
    return CalibrationSet(features, config.seed, fingerprint(features))


def calibrate_stage(
    folder: BuildFolder,
    inputs: BuildInputs,
    rows: CalibrationSet,
    weights: Callable[[], Checkpoint],
    progress: Progress,
) -> Stage:
    """The calibration table.

    Calibration leaves its quantizers in the model, so it comes after whatever else needs that.
    """

    def work() -> Made:
        table = calibrate(weights(), inputs.task, rows, progress)
        write_text(folder.calibration, table_to_json(table))
        return Made([folder.calibration], calibration_to_dict(table))

    source = calibration_source(inputs.checkpoint, inputs.task, rows)
    return Stage(
        name=CALIBRATE,
        key=stage_key(
            CALIBRATE,
            source=asdict(source),
            pad_token_id=inputs.checkpoint.tokenizer.pad_token_id,
            table_version=VERSION,
            versions=versions_of(),
        ),
        work=work,
        prepare=weights,
    )
