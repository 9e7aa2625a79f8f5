"""What calibration saw, per site, in a file that every recipe and format can be derived from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib_data.parsing import parse_json
from export.codes import dequantize, quantize
from export.errors import CalibrationError
from export.histogram import BINS, RangeHistogram
from export.recipe import CalibrationMethod, Calibrator, QuantFormat

VERSION = 3

# Candidates of mse and entropy: every eighth bin edge above the first 128 (ModelOpt's start).
_FIRST_BIN = 128
_STRIDE = 8


@dataclass(frozen=True)
class CalibrationSource:
    """Where a table's numbers come from.

    Attributes:
        model_fingerprint: sha256 of the checkpoint, as `Checkpoint.fingerprint`.
        task: `Task.identity` of the task whose training split was sampled.
        data_fingerprint: sha256 over the token ids, in order.
        samples: Feature rows that went through the model.
        seed: Of the sampling.
        batch_size: Rows per forward pass; percentile and entropy depend on it slightly.
        order: How rows were ordered.
        tools: Versions of the packages that took part.
    """

    model_fingerprint: str
    task: str
    data_fingerprint: str
    samples: int
    seed: int
    batch_size: int
    order: str
    tools: Mapping[str, str]


@dataclass(frozen=True)
class CalibrationTable:
    """Statistics of every activation site.

    Attributes:
        source: What was run, on what.
        sites: Site name to the histogram of the absolute values it carried, padding excluded.
        centers: Site name to its channel centers, float32 [hidden], of k, v and PV.
        centered: The same sites' histograms, counted relative to those centers.
        channel_amax: Site name to the largest magnitude in each channel, float32 [hidden], of
            LayerNorm outputs that linears read.
        carried: Tensor to the largest magnitude it had, padding included, of every tensor that an
            engine carries unquantized and that can grow: outputs of linears
            (`<module>.output`), inputs of LayerNorms (`<module>.input`), and attention scores ahead
            of the mask (`<module>.scores`).
    """

    source: CalibrationSource
    sites: Mapping[str, RangeHistogram]
    centers: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    centered: Mapping[str, RangeHistogram] = field(default_factory=dict)
    channel_amax: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    carried: Mapping[str, float] = field(default_factory=dict)

    def amax(
        self, site: str, calibrator: Calibrator, fmt: QuantFormat, centered: bool = False
    ) -> float:
        """The range that a calibrator chooses for a site.

        Args:
            site: Its name.
            calibrator: Percentile and entropy are ModelOpt's procedures, applied to our histogram.
            fmt: What the site is quantized to.
            centered: Whether a rule has made the site relative to its center.

        Raises:
            CalibrationError: The site is not in the table, or never carried a non-zero value.
        """
        try:
            histogram = (self.centered if centered else self.sites)[site]
        except KeyError:
            raise CalibrationError(
                f"calibration.json has no site '{site}'",
                "delete it and build again, so that it is calibrated anew",
            ) from None
        if histogram.amax == 0.0:
            raise CalibrationError(
                f"site '{site}' carried only zeros during calibration, so it has no range",
                "calibrate on more varied data (--calib-samples), or exclude the site in a recipe",
            )
        amax = _modelopt_amax(histogram, calibrator, fmt)
        # A bin's edge can round past the largest value; no range needs to be wider than the data.
        return min(amax, histogram.amax)


def _modelopt_amax(histogram: RangeHistogram, calibrator: Calibrator, fmt: QuantFormat) -> float:
    if calibrator.method is CalibrationMethod.MAX:
        return histogram.amax
    from modelopt.torch.quantization.calib import histogram as modelopt

    counts, edges = histogram.counts, histogram.edges()
    if calibrator.method is CalibrationMethod.PERCENTILE:
        amax = float(modelopt._compute_amax_percentile(counts, edges, calibrator.percentile))
        # ModelOpt answers with the lower edge of the bin, which is 0 for the first one: one value
        # over 2,048 times the rest puts all others there.
        return max(amax, float(edges[1]))
    if calibrator.method is CalibrationMethod.MSE:
        return _mse_amax(counts, edges, fmt)
    # ModelOpt overwrites the first bin in place.
    return float(
        modelopt._compute_amax_entropy(counts.copy(), edges, 8, False, _STRIDE, _FIRST_BIN)
    )


def _mse_amax(counts: NDArray[np.int64], edges: NDArray[np.float64], fmt: QuantFormat) -> float:
    """The amax whose codes have the least mean squared error.

    ModelOpt's procedure over ModelOpt's candidates. Its own function (0.47) passes the number of
    bits where its quantizer takes a bias: FP8 fails, and INT8 is searched with no bits at all.
    """
    centers = (edges[1:] + edges[:-1]) / 2
    candidates = centers[_FIRST_BIN::_STRIDE]
    errors = []
    for amax in candidates:
        scale = np.array(amax / fmt.max_value)
        error = dequantize(quantize(centers, scale, fmt), scale) - centers
        errors.append(float((counts * error**2).sum()))
    return float(candidates[int(np.argmin(errors))])


def table_to_json(table: CalibrationTable) -> str:
    """A table as JSON: one line per site, so that two tables can be compared with diff."""
    lines = ",\n".join(
        f"    {json.dumps(name)}: " + json.dumps(_site_to_dict(table, name), separators=(",", ":"))
        for name in table.sites
    )
    source = json.dumps(asdict(table.source), indent=2).replace("\n", "\n  ")
    carried = json.dumps(dict(table.carried), indent=2).replace("\n", "\n  ")
    return (
        f'{{\n  "version": {VERSION},\n  "source": {source},\n  "carried": {carried},\n'
        f'  "sites": {{\n{lines}\n  }}\n}}\n'
    )


def _site_to_dict(table: CalibrationTable, name: str) -> dict[str, Any]:
    plain = _histogram_to_dict(table.sites[name])
    if name in table.centers:
        plain["center"] = table.centers[name].tolist()
        plain["centered"] = _histogram_to_dict(table.centered[name])
    if name in table.channel_amax:
        plain["channel_amax"] = table.channel_amax[name].tolist()
    return plain


def _histogram_to_dict(histogram: RangeHistogram) -> dict[str, Any]:
    return {
        "amax": histogram.amax,
        "upper": histogram.upper,
        "counts": histogram.counts.tolist(),
    }


def read_table(path: Path, model_fingerprint: str) -> CalibrationTable:
    """Read a table that was made from the model with this fingerprint.

    Raises:
        CalibrationError: Not a table, of another version, or of another model.
    """
    remedy = "delete it and build again, so that it is calibrated anew"
    try:
        plain: dict[str, Any] = parse_json(path.read_bytes())
        version = plain["version"]
        if version != VERSION:
            raise CalibrationError(f"'{path}' has version {version}, not {VERSION}", remedy)
        source = CalibrationSource(**plain["source"])
        sites: dict[str, dict[str, Any]] = plain["sites"]
        table = CalibrationTable(
            source=source,
            sites={name: _histogram_from_dict(name, site) for name, site in sites.items()},
            centers={
                name: _channels_from_list(name, site["center"])
                for name, site in sites.items()
                if "center" in site
            },
            centered={
                name: _histogram_from_dict(name, site["centered"])
                for name, site in sites.items()
                if "center" in site
            },
            channel_amax={
                name: _channels_from_list(name, site["channel_amax"])
                for name, site in sites.items()
                if "channel_amax" in site
            },
            carried={name: float(amax) for name, amax in plain["carried"].items()},
        )
        if len({len(each) for each in (*table.centers.values(), *table.channel_amax.values())}) > 1:
            raise ValueError("its sites have different numbers of channels")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise CalibrationError(f"'{path}' is not a calibration table: {error}", remedy) from error
    if source.model_fingerprint != model_fingerprint:
        raise CalibrationError(f"'{path}' was calibrated on another model", remedy)
    return table


def _histogram_from_dict(name: str, plain: Mapping[str, Any]) -> RangeHistogram:
    counts = np.asarray(plain["counts"])
    amax, upper = float(plain["amax"]), float(plain["upper"])
    if (
        counts.dtype.kind != "i"
        or counts.shape != (BINS,)
        or not 0.0 <= amax <= upper < np.inf
        or (counts < 0).any()
    ):
        raise ValueError(f"site '{name}' has an impossible histogram")
    return RangeHistogram(upper=upper, amax=amax, counts=counts.astype(np.int64))


def _channels_from_list(name: str, plain: list[float]) -> NDArray[np.float32]:
    channels = np.asarray(plain, dtype=np.float32)
    if channels.ndim != 1 or not np.isfinite(channels).all():
        raise ValueError(f"site '{name}' has impossible channels")
    return channels
