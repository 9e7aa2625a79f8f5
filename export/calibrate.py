"""Run a model once over calibration data and record what every site carries."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib_data.batching import bucketed_batches, collate
from calib_data.progress import Progress, SilentProgress
from calib_data.sampler import CalibrationSet
from calib_data.tasks import Task
from export.attention_centers import find_centers
from export.calibration_table import CalibrationSource, CalibrationTable
from export.carried import watch_carried
from export.checkpoint import Checkpoint, CheckpointInfo
from export.errors import CalibrationError, SiteError
from export.onnx_export import input_names
from export.sites import Site, SiteKind, encoder_sites, layer_names

_ORDER = "sorted by length"
_BATCH_SIZE = 16

# Lengths are padded to a multiple of this, so that a batch holds few tokens of padding.
_LENGTH_STEP = 16


def calibrate(
    checkpoint: Checkpoint,
    task: Task,
    data: CalibrationSet,
    progress: Progress | None = None,
    batch_size: int = _BATCH_SIZE,
) -> CalibrationTable:
    """Record the range of every activation site in one pass, in memory that does not grow.

    One batch runs ahead of it, to find the centers that some sites are counted relative to.

    ModelOpt places the observers. The checkpoint's model carries its quantizers afterwards, so
    export it before, not after.

    Args:
        checkpoint: As `load_checkpoint` returns it.
        task: The task the rows belong to.
        data: Rows of its training split.
        progress: Told about each batch.
        batch_size: Rows per forward pass.

    Raises:
        CalibrationError: No rows, or a site carried NaN or infinity.
        SiteError: ModelOpt offers no quantizer where the architecture has a site.
    """
    import torch

    with _quiet_modelopt():
        from export.range_calibrator import RangeCalibrator, RealTokens

    rows = len(data.features.input_ids)
    if rows == 0:
        raise CalibrationError(
            "the calibration set is empty", "ask for at least one row with --calib-samples"
        )
    sites = [
        site
        for site in encoder_sites(checkpoint.architecture, checkpoint.layers)
        # Weight ranges are read off the weights; the softmax output's range is [0, 1] by nature.
        if site.kind not in {SiteKind.LINEAR_WEIGHT, SiteKind.ATTENTION_P}
    ]
    _insert_quantizers(checkpoint.model, sites)
    real = RealTokens()
    names = input_names(checkpoint.model)
    device = next(checkpoint.model.parameters()).device

    def run(batch: Mapping[str, NDArray[np.int64]]) -> None:
        inputs = {name: torch.from_numpy(batch[name]).to(device) for name in names}
        mask = inputs["attention_mask"].flatten()
        real.positions = None if bool(mask.all()) else mask.nonzero().squeeze(1)
        with torch.inference_mode():
            checkpoint.model(**inputs)

    batches = _batches(data, batch_size, checkpoint.tokenizer.pad_token_id)
    layers = layer_names(checkpoint.architecture, checkpoint.layers)
    with find_centers(checkpoint.model, layers, real) as centers:
        # Batches run from short rows to long ones: the middle one is neither.
        run(batches[len(batches) // 2])
    # A residual is the tensor that the linear beside it reads: one quantizer, one calibrator.
    by_quantizer = {
        site.quantizer: RangeCalibrator(site.name, site.kind, real, centers.get(site.name))
        for site in reversed(sites)
    }
    calibrators = {site.name: by_quantizer[site.quantizer] for site in sites}
    _observe(checkpoint.model, sites, calibrators)
    with watch_carried(checkpoint.model, layers) as carried:
        for batch in (progress or SilentProgress()).track(
            batches, "Calibrating", total=len(batches)
        ):
            run(batch)
    return CalibrationTable(
        source=calibration_source(checkpoint, task, data, batch_size),
        sites={name: calibrator.histogram for name, calibrator in calibrators.items()},
        centers={name: center.cpu().numpy() for name, center in centers.items()},
        centered={name: calibrators[name].centered for name in centers},
        channel_amax={
            name: calibrators[name].channel_amax().cpu().numpy()
            for layer in layers
            for name in layer.normalized_sites
        },
        carried=carried.amax,
    )


def calibration_source(
    checkpoint: CheckpointInfo, task: Task, data: CalibrationSet, batch_size: int = _BATCH_SIZE
) -> CalibrationSource:
    """What `calibrate` records of its origin; an equal one stands for equal numbers."""
    return CalibrationSource(
        model_fingerprint=checkpoint.fingerprint,
        task=task.identity,
        data_fingerprint=data.fingerprint,
        samples=len(data.features.input_ids),
        seed=data.seed,
        batch_size=batch_size,
        order=_ORDER,
        tools={name: version(name) for name in ("torch", "transformers", "nvidia-modelopt")},
    )


def _batches(
    data: CalibrationSet, batch_size: int, pad_token_id: int
) -> list[dict[str, NDArray[np.int64]]]:
    longest = int(data.features.lengths.max())
    buckets = tuple(range(_LENGTH_STEP, longest + _LENGTH_STEP, _LENGTH_STEP))
    return [
        collate(data.features, batch, pad_token_id)
        for batch in bucketed_batches(data.features.lengths, buckets, batch_size)
    ]


def _insert_quantizers(model: Any, sites: Sequence[Site]) -> None:
    """Let ModelOpt put a quantizer on every site that lets everything through as it is."""
    with _quiet_modelopt():
        import modelopt.torch.quantization as mtq

        config = [{"quantizer_name": "*", "enable": False}] + [
            {"quantizer_name": site.quantizer, "cfg": {"num_bits": 8, "axis": None}, "enable": True}
            for site in sites
        ]
        mtq.quantize(model, {"quant_cfg": config, "algorithm": None})
    for site in sites:
        _quantizer(model, site).disable_quant()


def _observe(model: Any, sites: Sequence[Site], calibrators: Mapping[str, Any]) -> None:
    """Let the calibrators see what their sites carry, unquantized."""
    for site in sites:
        quantizer = _quantizer(model, site)
        quantizer._calibrator = calibrators[site.name]
        quantizer.enable_calib()


def _quantizer(model: Any, site: Site) -> Any:
    try:
        return model.get_submodule(site.quantizer)
    except AttributeError:
        raise SiteError(
            f"ModelOpt has no quantizer '{site.quantizer}' for site '{site.name}'",
            "compare the nvidia-modelopt and transformers versions that `deploy doctor` prints "
            "with the ranges in pyproject.toml",
        ) from None


@contextmanager
def _quiet_modelopt() -> Iterator[None]:
    """ModelOpt prints to standard output, which belongs to results, and warns about versions."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
