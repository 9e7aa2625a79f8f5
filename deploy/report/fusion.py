"""What did not fuse, and why: the same module of several layers and profiles on one line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deploy.report.encoder import index_ranges, split_layer


@dataclass(frozen=True)
class Unfused:
    """A module of the encoder that did not become what the graph promised.

    Attributes:
        precision: Of the engine.
        target: Compute capability.
        sequences: Longest sequence of each profile that it is not fused in: "16, 64".
        module: Its path within a layer.
        layers: Those that it is not fused in: "0-5".
        reason: Why, as far as known.
    """

    precision: str
    target: str
    sequences: str
    module: str
    layers: str
    reason: str


def unfused(results: Mapping[str, Any]) -> tuple[Unfused, ...]:
    """All that did not fuse in any profile, in the order of precisions, targets and modules."""
    layers: dict[tuple[str, str, str, str], list[int]] = {}
    sequences: dict[tuple[str, str, str, str], list[int]] = {}
    for precision, fusion in results["fusion"].items():
        for profile in fusion["profiles"]:
            for each in profile.get("unfused", ()):
                index, module = split_layer(each["module"])
                key = (precision, profile["target"], module, each["reason"])
                found = layers.setdefault(key, [])
                if index is not None and index not in found:
                    found.append(index)
                longest = sequences.setdefault(key, [])
                if profile["max"]["sequence"] not in longest:
                    longest.append(profile["max"]["sequence"])
    return tuple(
        Unfused(
            precision=precision,
            target=target,
            sequences=", ".join(map(str, sequences[precision, target, module, reason])),
            module=module,
            layers=index_ranges(sorted(found)),
            reason=reason,
        )
        for (precision, target, module, reason), found in layers.items()
    )
