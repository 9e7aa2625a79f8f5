"""The calibrator that ModelOpt's quantizers call; import it only where ModelOpt is wanted."""

from __future__ import annotations

from dataclasses import dataclass

from modelopt.torch.quantization.calib import _Calibrator
from torch import Tensor

from calib_data.errors import ToolchainError
from export.errors import CalibrationError
from export.histogram import RangeHistogram
from export.sites import SiteKind


@dataclass
class RealTokens:
    """Which tokens of the batch in flight are not padding.

    Attributes:
        positions: Indexes into the batch's flattened tokens, int64; None when all are real.
    """

    positions: Tensor | None = None


class RangeCalibrator(_Calibrator):  # type: ignore[misc]
    """Counts what a site carries into a `RangeHistogram`, padding excluded.

    ModelOpt takes a calibrator by its base class, which is why this one has a base class.
    Padding is left out because its values never reach a real token's result: padded keys are
    masked, padded rows are dropped. Letting them widen the range would cost accuracy for nothing.
    """

    def __init__(self, site: str, kind: SiteKind, real: RealTokens) -> None:
        super().__init__()
        self._site = site
        self._kind = kind
        self._real = real
        self.histogram = RangeHistogram()

    def collect(self, x: Tensor) -> None:
        """Count one batch: [batch, sequence, width], or [batch, heads, sequence, head_dim]."""
        if self._real.positions is not None:
            by_token = x if self._kind is SiteKind.LINEAR_INPUT else x.transpose(1, 2)
            x = by_token.flatten(0, 1).index_select(0, self._real.positions)
        try:
            self.histogram.update(x)
        except ValueError as error:
            raise CalibrationError(
                f"site '{self._site}' carried NaN or infinity during calibration",
                "check the checkpoint's weights: run it once in FP32 on the same data",
            ) from error

    def reset(self) -> None:
        """Forget everything."""
        self.histogram = RangeHistogram()

    def compute_amax(self) -> None:
        """Refuse: amax values are derived from the calibration table, not inside the model."""
        raise ToolchainError("RangeCalibrator keeps statistics only", "use CalibrationTable.amax")
