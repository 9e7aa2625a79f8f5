"""The calibrator that ModelOpt's quantizers call; import it only where ModelOpt is wanted."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from modelopt.torch.quantization.calib import _Calibrator
from torch import Tensor

from calib_data.errors import ToolchainError
from export.errors import CalibrationError
from export.histogram import RangeHistogram
from export.sites import ATTENTION_KINDS, SiteKind


@dataclass
class RealTokens:
    """Which tokens of the batch in flight are not padding.

    Attributes:
        positions: Indexes into the batch's flattened tokens, int64; None when all are real.
    """

    positions: Tensor | None = None
    _scratch: Tensor = field(default_factory=lambda: torch.empty(0))

    def select(self, x: Tensor, kind: SiteKind) -> Tensor:
        """The real tokens of a batch, one a row: [tokens, …].

        Args:
            x: [batch, heads, sequence, head_dim] inside attention, else [batch, sequence, width].
            kind: What x is.
        """
        by_token = x.transpose(1, 2) if kind in ATTENTION_KINDS else x
        tokens = by_token.flatten(0, 1)
        return tokens if self.positions is None else tokens.index_select(0, self.positions)

    def magnitudes(self, tokens: Tensor, center: Tensor | None = None) -> Tensor:
        """|tokens - center| as float32, in memory that the next call overwrites.

        Every site of every batch takes magnitudes. In a tensor of its own each, the heap falls into
        pieces, and BERT-base calibrates in 0.4 GB more.
        """
        if self._scratch.numel() < tokens.numel() or self._scratch.device != tokens.device:
            self._scratch = torch.empty(tokens.numel(), device=tokens.device)
        out = self._scratch[: tokens.numel()].view(tokens.shape)
        if center is None:
            return torch.abs(tokens, out=out)
        return torch.sub(tokens, center, out=out).abs_()

    def mask(self, batch: int, sequence: int, device: torch.device) -> Tensor:
        """The same as a mask: bool [batch, sequence]."""
        if self.positions is None:
            return torch.ones(batch, sequence, dtype=torch.bool, device=device)
        mask = torch.zeros(batch * sequence, dtype=torch.bool, device=device)
        mask[self.positions] = True
        return mask.view(batch, sequence)


class RangeCalibrator(_Calibrator):  # type: ignore[misc]
    """Counts what a site carries into a `RangeHistogram`, padding excluded.

    A site with a center is counted twice: as it is, and relative to its center. The largest
    magnitude of each channel is kept beside.

    ModelOpt takes a calibrator by its base class, which is why this one has a base class.
    Padding is left out because its values never reach a real token's result: padded keys are
    masked, padded rows are dropped. Letting them widen the range would cost accuracy for nothing.
    """

    def __init__(
        self, site: str, kind: SiteKind, real: RealTokens, center: Tensor | None = None
    ) -> None:
        super().__init__()
        self._site = site
        self._kind = kind
        self._real = real
        self._center = center
        self.histogram = RangeHistogram()
        self.centered = RangeHistogram()
        self._channel_amax: Tensor | None = None

    def collect(self, x: Tensor) -> None:
        """Count one batch: [batch, sequence, width], or [batch, heads, sequence, head_dim]."""
        tokens = self._real.select(x, self._kind).flatten(1)
        magnitudes = self._real.magnitudes(tokens)
        amax = magnitudes.amax(dim=0)
        if self._channel_amax is None:
            self._channel_amax = amax
        else:
            torch.maximum(self._channel_amax, amax, out=self._channel_amax)
        try:
            self.histogram.update(magnitudes, float(amax.max()))
            if self._center is not None:
                centered = self._real.magnitudes(tokens, self._center)
                self.centered.update(centered, float(centered.max()))
        except ValueError as error:
            raise CalibrationError(
                f"site '{self._site}' carried NaN or infinity during calibration",
                "check the checkpoint's weights: run it once in FP32 on the same data",
            ) from error

    def channel_amax(self) -> Tensor:
        """The largest magnitude of each channel, float32 [hidden]."""
        assert self._channel_amax is not None  # asked for after a batch
        return self._channel_amax

    def reset(self) -> None:
        """Forget everything."""
        self.histogram, self.centered = RangeHistogram(), RangeHistogram()
        self._channel_amax = None

    def compute_amax(self) -> None:
        """Refuse: amax values are derived from the calibration table, not inside the model."""
        raise ToolchainError("RangeCalibrator keeps statistics only", "use CalibrationTable.amax")
