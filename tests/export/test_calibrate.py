from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import TASK, Exported, histogram_of, random_rows

from calib_data.sampler import CalibrationSet
from export.calibrate import calibrate
from export.calibration_table import CalibrationTable, read_table, table_to_json
from export.checkpoint import load_checkpoint
from export.codes import dequantize, quantize
from export.errors import CalibrationError
from export.recipe import CalibrationMethod, Calibrator, QuantFormat

MAX = Calibrator()


def recalibrate(exported: Exported, rows: CalibrationSet, batch_size: int):
    checkpoint = load_checkpoint(str(exported.folder), TASK)
    return calibrate(checkpoint, TASK, rows, batch_size=batch_size)


def test_padding_does_not_widen_a_range(exported):
    """Batches of one row have no padding, batches of twelve have much: the ranges are equal."""
    rows = random_rows(3, longest=60)
    alone, padded = (recalibrate(exported, rows, batch_size=size) for size in (1, 12))
    assert alone.sites.keys() == padded.sites.keys()
    for name, site in alone.sites.items():
        assert site.counts.sum() == padded.sites[name].counts.sum()
        # Batched GEMMs may sum in another order.
        assert padded.sites[name].amax == pytest.approx(site.amax, rel=1e-5)


def test_ranges_are_those_of_the_tensors_that_the_graph_quantizes(exported):
    """Against onnxruntime, which computes the tensors at the places where Q/DQ will go."""
    import onnx
    import onnxruntime

    from export.qdq import graph_sites
    from export.sites import locate_sites

    rows = random_rows(1)
    model = exported.graph()
    places = locate_sites(model, graph_sites(model))
    watched = {name: places[name].value.name for name in exported.table.sites}
    proto = onnx.load(exported.onnx)
    for tensor in sorted(set(watched.values())):
        proto.graph.output.append(onnx.ValueInfoProto(name=tensor))
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    seen = dict.fromkeys(watched, 0.0)
    for ids in rows.features.input_ids:
        tokens = {"input_ids": ids[None], "attention_mask": np.ones((1, len(ids)), np.int64)}
        tokens["token_type_ids"] = np.zeros_like(tokens["input_ids"])
        values = dict(zip(watched, session.run(list(watched.values()), tokens), strict=True))
        for name, value in values.items():
            seen[name] = max(seen[name], float(np.abs(value).max()))
    for name, site in exported.table.sites.items():
        assert site.amax == pytest.approx(seen[name], rel=1e-4), name


def table_of(values: np.ndarray) -> CalibrationTable:
    return CalibrationTable(source=None, sites={"site": histogram_of(values)})


HEAVY_TAILED = np.random.default_rng(0).standard_t(4, size=20_000).astype(np.float32)


def test_percentile_equals_modelopt_on_a_single_batch():
    from modelopt.torch.quantization.calib import HistogramCalibrator

    reference = HistogramCalibrator(num_bits=8)
    reference.collect(torch.from_numpy(HEAVY_TAILED))
    expected = float(reference.compute_amax("percentile", percentile=99.9))
    calibrator = Calibrator(CalibrationMethod.PERCENTILE, 99.9)
    amax = table_of(HEAVY_TAILED).amax("site", calibrator, QuantFormat.INT8)
    # Edges are float32 there and float64 here.
    assert amax == pytest.approx(expected, rel=1e-5)
    assert amax < np.abs(HEAVY_TAILED).max()


def test_percentile_is_never_zero_however_far_an_outlier_lies():
    values = np.full(200_000, 0.01, np.float32)
    values[:3] = 200.0
    calibrator = Calibrator(CalibrationMethod.PERCENTILE, 99.99)
    amax = table_of(values).amax("site", calibrator, QuantFormat.INT8)
    assert 0.01 <= amax <= 200.0 / 1024


@pytest.mark.parametrize("fmt", list(QuantFormat))
def test_mse_finds_the_amax_of_least_error(fmt):
    """Against a search on the values themselves; bins blur the minimum, which is flat."""

    def error(amax):
        scale = np.array(amax / fmt.max_value)
        rounded = dequantize(quantize(HEAVY_TAILED, scale, fmt), scale)
        return float(((rounded - HEAVY_TAILED) ** 2).mean())

    largest = float(np.abs(HEAVY_TAILED).max())
    found = table_of(HEAVY_TAILED).amax("site", Calibrator(CalibrationMethod.MSE), fmt)
    best = min(error(amax) for amax in np.linspace(largest / 16, largest, 200))
    assert error(found) <= 1.02 * best


def test_table_survives_its_file(exported, tmp_path):
    path = tmp_path / "calibration.json"
    path.write_text(table_to_json(exported.table))
    again = read_table(path, exported.checkpoint.fingerprint)
    assert table_to_json(again) == table_to_json(exported.table)


def test_table_of_another_model_is_refused(exported, tmp_path):
    path = tmp_path / "calibration.json"
    path.write_text(table_to_json(exported.table))
    with pytest.raises(CalibrationError, match="another model"):
        read_table(path, "0" * 64)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"version": 3', '"version": 2'),
        ('"amax":', '"amin":'),
        ('"upper":', '"upper":-'),
        ('"sites"', '"places"'),
        ('"counts":[', '"counts":[1,'),
        ("}\n}\n", ""),
    ],
)
def test_damaged_table_is_refused(exported, tmp_path, old, new):
    text = table_to_json(exported.table)
    assert old in text
    path = tmp_path / "calibration.json"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(CalibrationError, match="calibration") as error:
        read_table(path, exported.checkpoint.fingerprint)
    assert "delete it" in error.value.remedy


def test_nan_names_its_site(exported):
    checkpoint = load_checkpoint(str(exported.folder), TASK)
    with torch.no_grad():
        checkpoint.model.get_parameter("bert.encoder.layer.1.output.dense.bias")[0] = float("nan")
        checkpoint.model.get_parameter("bert.encoder.layer.0.intermediate.dense.bias")[0] = float(
            "inf"
        )
    with pytest.raises(CalibrationError, match=r"layer\.0\.intermediate\.dense\.output"):
        calibrate(checkpoint, TASK, random_rows(0))


def test_site_that_carries_only_zeros_is_an_error(exported):
    checkpoint = load_checkpoint(str(exported.folder), TASK)
    with torch.no_grad():
        for name in ("weight", "bias"):
            checkpoint.model.get_parameter(
                f"bert.encoder.layer.0.attention.self.value.{name}"
            ).zero_()
    table = calibrate(checkpoint, TASK, random_rows(0))
    with pytest.raises(CalibrationError, match=r"'bert.*attention\.self\.v' carried only zeros"):
        table.amax("bert.encoder.layer.0.attention.self.v", MAX, QuantFormat.FP8)


def test_no_rows_is_an_error(exported):
    rows = random_rows(0)
    none = replace(rows, features=replace(rows.features, input_ids=(), token_type_ids=()))
    with pytest.raises(CalibrationError, match="empty"):
        recalibrate(exported, none, batch_size=4)
