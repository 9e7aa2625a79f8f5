"""A histogram of absolute values in constant memory, whose range grows with the data.

ModelOpt's own histogram keeps the bin width of its first batch and adds bins, so that one late
outlier, 300 times larger, makes 2,048 bins 643,806. Here the range doubles instead and bins merge
pairwise: the number of bins is fixed, no value is ever lost, and after the last doubling at least
half of the bins are in use.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

# ModelOpt's default number of bins; percentile and mse then equal ModelOpt's on a single batch.
BINS = 2048

# histc counts in float32, which knows every integer up to here.
_EXACT = 1 << 24

# Values that are counted at a time on the CPU: their bin numbers stay in its cache.
_CACHED = 1 << 17


@dataclass
class RangeHistogram:
    """Counts of |x| in `BINS` equal bins over [0, upper].

    Attributes:
        upper: Upper edge of the last bin; 0 until a non-zero value has come.
        amax: Largest |x| seen, exactly.
        counts: int64 [BINS].
    """

    upper: float = 0.0
    amax: float = 0.0
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def update(self, magnitudes: Tensor, batch_amax: float) -> None:
        """Count absolute values.

        Args:
            magnitudes: Float32, any shape.
            batch_amax: The largest of them; NaN if one is NaN, as torch's max has it.

        Raises:
            ValueError: `batch_amax` is NaN or infinite.
        """
        if not np.isfinite(batch_amax):
            raise ValueError(f"cannot count {batch_amax}")
        self.amax = max(self.amax, batch_amax)
        if self.upper == 0.0:
            if batch_amax == 0.0:
                self.counts[0] += magnitudes.numel()
                return
            self.upper = batch_amax
        while batch_amax > self.upper:
            self._double()
        count = _count_on_cpu if magnitudes.device.type == "cpu" else _count_on_gpu
        self.counts += count(magnitudes.flatten(), self.upper)

    def edges(self) -> NDArray[np.float64]:
        """Bin edges, [BINS + 1]."""
        return np.linspace(0.0, self.upper, BINS + 1, dtype=np.float64)

    def _double(self) -> None:
        self.upper *= 2
        merged = self.counts.reshape(-1, 2).sum(axis=1)
        self.counts = np.concatenate([merged, np.zeros(BINS // 2, np.int64)])


def _count_on_gpu(magnitudes: Tensor, upper: float) -> NDArray[np.int64]:
    import torch

    counts = np.zeros(BINS, np.int64)
    for part in torch.split(magnitudes, _EXACT):
        batch = torch.histc(part, bins=BINS, min=0, max=upper)
        counts += batch.cpu().numpy().astype(np.int64)
    return counts


def _count_on_cpu(magnitudes: Tensor, upper: float) -> NDArray[np.int64]:
    """What histc counts, bin for bin, in less than a third of its CPU time."""
    values = magnitudes.numpy()
    scaled, bins = np.empty(_CACHED, np.float32), np.empty(_CACHED, np.intp)
    counts = np.zeros(BINS + 1, np.int64)
    for start in range(0, values.size, _CACHED):
        part = values[start : start + _CACHED]
        # BINS is a power of two, so this rounds as histc's x * BINS / upper does.
        np.divide(part, np.float32(upper), out=scaled[: part.size])
        np.multiply(scaled[: part.size], np.float32(BINS), out=scaled[: part.size])
        np.copyto(bins[: part.size], scaled[: part.size], casting="unsafe")
        counts += np.bincount(bins[: part.size], minlength=BINS + 1)
    counts[BINS - 1] += counts[BINS]  # what equals `upper` belongs to the last bin
    return counts[:BINS]
