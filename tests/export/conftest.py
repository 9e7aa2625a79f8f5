import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from checkpoints import VOCABULARY, save_random_checkpoint

from calib_data.features import Features
from calib_data.sampler import CalibrationSet, fingerprint
from calib_data.tasks import Head, get_task
from export.calibrate import calibrate
from export.calibration_table import CalibrationTable
from export.checkpoint import Checkpoint, load_checkpoint
from export.histogram import RangeHistogram
from export.onnx_export import export_onnx
from export.onnx_file import write_onnx

TASK = get_task("sst2")


@dataclass(frozen=True)
class Exported:
    """A random checkpoint, its FP32 graph and its calibration."""

    folder: Path
    checkpoint: Checkpoint
    onnx: Path
    table: CalibrationTable

    def graph(self) -> ir.Model:
        return ir.load(self.onnx)


def random_rows(seed: int, count: int = 12, longest: int = 40) -> CalibrationSet:
    rng = np.random.default_rng(seed)
    ids = tuple(rng.integers(4, VOCABULARY, length) for length in rng.integers(8, longest, count))
    features = Features(ids, tuple(np.zeros_like(row) for row in ids), np.arange(count), ())
    return CalibrationSet(features, seed, fingerprint(features))


def export_random(folder: Path, **options: object) -> Exported:
    save_random_checkpoint(folder, **options)  # type: ignore[arg-type]
    checkpoint = load_checkpoint(str(folder), TASK)
    onnx = folder / "model.fp32.onnx"
    write_onnx(export_onnx(checkpoint, Head.SEQUENCE_CLASSIFICATION), onnx)
    return Exported(folder, checkpoint, onnx, calibrate(checkpoint, TASK, random_rows(1)))


def histogram_of(*batches: np.ndarray) -> RangeHistogram:
    """The magnitudes of floats, batch by batch."""
    histogram = RangeHistogram()
    for batch in batches:
        magnitudes = torch.from_numpy(np.abs(batch).astype(np.float32))
        histogram.update(magnitudes, float(magnitudes.max()))
    return histogram


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export_random(tmp_path_factory.mktemp("bert"))


@pytest.fixture
def warnings_of() -> Iterator[Callable[[str], list[str]]]:
    """What a logger has warned of, by its name."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = records.append  # type: ignore[method-assign]
    root = logging.getLogger()
    root.addHandler(handler)
    yield lambda name: [record.getMessage() for record in records if record.name == name]
    root.removeHandler(handler)
