"""What a result was made of: versions, data, machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def made_of(results: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Everything that shaped the results and is not an option, as term and value."""
    environment, calibration = results["environment"], results["calibration"]
    if "model_fingerprint" in results:
        yield "model, sha256", results["model_fingerprint"]
    if "data_fingerprint" in results:
        yield "development tokens, sha256", results["data_fingerprint"]
    if calibration:
        yield (
            "calibration",
            f"{calibration['samples']:,} rows of the {calibration['task']} training split, seed "
            f"{calibration['seed']}, {calibration['order']}, batches of "
            f"{calibration['batch_size']}",
        )
        yield "calibration tokens, sha256", calibration["data_fingerprint"]
    yield "processor", f"{environment['cpu']}, {environment['cores']} cores"
    yield "GPU", "; ".join(environment["gpus"]) or "none"
    if "platform" in environment:
        yield "system", environment["platform"]
    versions = {"Python": environment["python"], **environment["packages"]}
    yield "versions", ", ".join(f"{name} {version}" for name, version in versions.items())
