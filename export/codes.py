"""8-bit codes: what QuantizeLinear and DequantizeLinear compute."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.recipe import QuantFormat


def quantize(
    values: NDArray[np.floating[Any]], scale: NDArray[np.float64], fmt: QuantFormat
) -> NDArray[Any]:
    """Divide by the scale, saturate, and round to the nearest code, ties to even.

    Args:
        values: Any shape; the last axis is the channel axis where `scale` has one entry a channel.
        scale: [] or [channels].
        fmt: What the codes are: float8_e4m3fn or int8.
    """
    import ml_dtypes

    scaled = np.asarray(values, np.float32) / scale.astype(np.float32)
    limited = np.clip(scaled, -fmt.max_value, fmt.max_value)
    if fmt is QuantFormat.INT8:
        return np.rint(limited).astype(np.int8)
    return limited.astype(ml_dtypes.float8_e4m3fn)


def dequantize(codes: NDArray[Any], scale: NDArray[np.float64]) -> NDArray[np.float32]:
    """The values that codes stand for, FP32, of the shape of `codes`."""
    return codes.astype(np.float32) * scale.astype(np.float32)
