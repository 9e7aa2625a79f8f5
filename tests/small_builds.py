"""Builds of a two-layer model that take a second, and what two of them must have in common."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

from checkpoints import save_random_checkpoint

from deploy.artifacts import BuildFolder, own_files, read_json, sha256
from deploy.config import config_from_dict
from deploy.pipeline import build

# These hold times; everything else is the same, byte for byte, each time it is built.
_TIMED = ("results.json", "report.html", "report.md", "evaluation/")


def write_inputs(root: Path) -> dict[str, Any]:
    """Make a checkpoint and data; return the options of a build of them, but for its folder."""
    for name, rows in (("train", 8), ("dev", 12)):
        path = root / "data" / "glue" / "SST-2" / f"{name}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [f"w{i} w{(7 * i) % 50} w{(11 * i) % 90}\t{i % 2}" for i in range(rows)]
        path.write_text("\n".join(["sentence\tlabel", *lines]) + "\n", encoding="utf-8")
    return {
        "model": str(save_random_checkpoint(root / "model")),
        "task": "sst2",
        "data_dir": str(root / "data"),
        "precision": "fp8,fp16",
        "buckets": "32",
        "max_batch": 4,
        "calib_samples": 4,
    }


def build_into(out: Path, options: Mapping[str, Any]) -> None:
    """Build; the export of a checkpoint, which takes most of the time, is run once a process."""
    with mock.patch("deploy.stages.export.export_onnx", _exported):
        build(config_from_dict({**options, "out": out}))


def warm_up(options: Mapping[str, Any], scratch: Path) -> None:
    """Do once in this process what all builds to come would do again, and forget the build."""
    build_into(scratch, {**options, "engine": "none"})
    shutil.rmtree(scratch)
    # What is imported by now stays: a build collects garbage, and need not go through all of it.
    gc.collect()
    gc.freeze()


def contents(folder: BuildFolder) -> dict[str, Any]:
    """What is the same in every build of the same inputs: hashes, and results without times."""
    files = {folder.name(path): path for path in own_files(folder)}
    return {
        **{name: None if name.startswith(_TIMED) else sha256(path) for name, path in files.items()},
        "results.json": _untimed(read_json(folder.results), str(folder.path)),
    }


def _untimed(plain: Any, out: str) -> Any:
    if isinstance(plain, dict):
        return {k: _untimed(v, out) for k, v in plain.items() if k not in ("seconds", "out")}
    return [_untimed(item, out) for item in plain] if isinstance(plain, list) else plain


def _exported(checkpoint: Any, head: Any) -> Any:
    import onnx_ir as ir

    from export.onnx_export import export_onnx

    if checkpoint.fingerprint not in _EXPORTS:
        _EXPORTS[checkpoint.fingerprint] = ir.to_proto(export_onnx(checkpoint, head))
    return ir.from_proto(_EXPORTS[checkpoint.fingerprint])


_EXPORTS: dict[str, Any] = {}
