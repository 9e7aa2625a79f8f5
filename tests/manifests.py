"""Manifests of builds that were put together by hand."""

from __future__ import annotations

from typing import Any

from deploy.artifacts import BuildFolder, file_hashes

CONFIG = {"model": "my model", "task": "sst2", "precision": ["fp8", "fp16"], "out": "out"}


def manifest_of(folder: BuildFolder) -> dict[str, Any]:
    """What a finished build of one stage would say of the files that lie there."""
    files = file_hashes(folder)
    return {
        "config": CONFIG,
        "model_fingerprint": "0" * 64,
        "data_fingerprint": "0" * 64,
        "calibration_fingerprint": None,
        "wanted": ["report"],
        "unfinished": None,
        "stages": {
            "report": {
                "key": "0" * 64,
                "seconds": 1.0,
                "peak_memory_bytes": None,
                "reused": False,
                "files": sorted(files),
                "result": {},
            }
        },
        "files": files,
    }
