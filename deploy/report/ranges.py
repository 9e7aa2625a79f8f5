"""What calibration saw of each tensor, a series over the encoder's layers for each role."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deploy.report.encoder import split_layer


@dataclass(frozen=True)
class RoleRanges:
    """The tensors that play the same role in every layer.

    Attributes:
        role: Their name within a layer, such as `attention.self.q`.
        layers: Indexes of the encoder's layers, ascending.
        amax: The largest magnitude in each of them.
    """

    role: str
    layers: tuple[int, ...]
    amax: tuple[float, ...]

    @property
    def widest(self) -> int:
        """The layer with the largest magnitude."""
        return self.layers[self.amax.index(max(self.amax))]


@dataclass(frozen=True)
class CalibrationRanges:
    """Ranges as a report shows them.

    Attributes:
        sites: What a recipe may quantize. A residual is left out where it is the very tensor that
            a linear reads.
        carried: What an engine carries unquantized, padding included.
        outside: Tensors outside of the encoder's layers to their largest magnitude.
    """

    sites: tuple[RoleRanges, ...]
    carried: tuple[RoleRanges, ...]
    outside: Mapping[str, float]


def calibration_ranges(results: Mapping[str, Any]) -> CalibrationRanges | None:
    """The ranges of results.json; None where nothing was calibrated or no ranges were kept."""
    ranges = (results["calibration"] or {}).get("ranges")
    if ranges is None:
        return None
    sites, _ = _by_role(ranges["sites"])
    carried, outside = _by_role(ranges["carried"])
    shown: dict[tuple[float, ...], RoleRanges] = {}
    for each in sites:
        # A residual shares its calibrator with the linear beside it, so no digit differs.
        if not (each.role.endswith(".residual") and each.amax in shown):
            shown[each.amax] = each
    return CalibrationRanges(tuple(shown.values()), tuple(carried), outside)


def _by_role(ranges: Mapping[str, float]) -> tuple[list[RoleRanges], dict[str, float]]:
    roles: dict[str, dict[int, float]] = {}
    outside: dict[str, float] = {}
    for name, amax in ranges.items():
        layer, role = split_layer(name)
        if layer is None:
            outside[name] = amax
        else:
            roles.setdefault(role, {})[layer] = amax
    series = [
        RoleRanges(role, tuple(sorted(by_layer)), tuple(by_layer[i] for i in sorted(by_layer)))
        for role, by_layer in roles.items()
    ]
    return series, outside
