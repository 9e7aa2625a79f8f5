"""Read and write ONNX files: whole or not at all, and beyond protobuf's 2 GB."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from calib_data.durable import replace, sync
from export.errors import ExportError
from export.onnx_tensors import check_tensors
from export.onnx_wire import read_model, write_model

if TYPE_CHECKING:
    import onnx_ir as ir

# Protobuf refuses messages of 2 GiB; the margin holds nodes and metadata.
_EXTERNAL_DATA_BYTES = 2_000_000_000

# Less than this may be mapped a few times.
_LARGE_BYTES = 100_000_000


def read_onnx(path: Path) -> ir.Model:
    """Read a model; its weights stay in the file, mapped.

    Raises:
        ExportError: The file is missing, is not ONNX, or its weights are not whole.
    """
    try:
        # A graph refers to itself in circles: without this, a build that reads a large file for
        # each precision has it mapped as many times. It takes half a second.
        if path.stat().st_size > _LARGE_BYTES:
            gc.collect()
        model = read_model(path)
        check_tensors(path, model)
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(
            f"cannot read '{path}' as ONNX: {type(error).__name__}: {error}",
            "build it again with `deploy build`",
        ) from error
    return model


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all constant tensors of a model."""
    return sum(
        value.const_value.nbytes
        for value in model.graph.initializers.values()
        if value.const_value is not None
    )


def write_onnx(model: ir.Model, path: Path) -> None:
    """Write a model so that `path` is either absent, the old file, or the whole new one.

    Weights over 2 GB go to `<name>.data` beside it, because protobuf cannot hold them; that file
    is written first and under its final name, so of such a pair only the graph is atomic.

    Raises:
        ExportError: The disk is full, or the folder cannot be written.
    """
    import onnx_ir as ir

    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    data = path.with_name(f"{path.name}.data")
    try:
        if weight_bytes(model) > _EXTERNAL_DATA_BYTES:
            ir.save(model, temporary, external_data=data.name)
            sync(data)
        else:
            with temporary.open("wb") as file:
                write_model(model, file)
            data.unlink(missing_ok=True)
        replace(temporary, path)
    except OSError as error:
        raise ExportError(
            f"cannot write '{path}': {error.strerror or error}",
            "free disk space, or give --out another folder",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def model_files(path: Path) -> list[Path]:
    """The files of a model that lies at `path`: itself, and its weights where they are apart."""
    data = path.with_name(f"{path.name}.data")
    return [path, data] if data.is_file() else [path]


def check_onnx(path: Path) -> None:
    """Run `onnx.checker` with shape inference on a file.

    Raises:
        ExportError: The checker refuses the model.
    """
    import onnx

    try:
        onnx.checker.check_model(path, full_check=True)
    except Exception as error:
        raise ExportError(
            f"onnx.checker refuses '{path}': {str(error).strip().splitlines()[0]}",
            "build it again with `deploy build`; if that repeats, compare the versions that "
            "`deploy doctor` prints with the ranges in pyproject.toml",
        ) from error
