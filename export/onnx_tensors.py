"""Whether the tensors of an ONNX file are what the file says: all of their bytes, and from where.

Nothing of `onnx` or `onnx-ir` asks this on reading, and what comes later fails in the middle, reads
a file that is none of the model's, or allocates what two flipped bits in a shape promise.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING

from export.errors import ExportError

if TYPE_CHECKING:
    import onnx_ir as ir


def check_tensors(path: Path, model: ir.Model) -> None:
    """Check the constants of a model that was read from a file.

    Raises:
        ExportError: A tensor has other bytes than its shape needs, or keeps them in a file that is
            missing, too short, or not in the model's folder.
    """
    import onnx_ir as ir

    for name, tensor in _tensors(model):
        if isinstance(tensor, ir.ExternalTensor):
            _check_external(path, name, tensor)
        elif isinstance(tensor, ir.TensorProtoTensor):
            _check_inline(path, name, tensor)


def _tensors(model: ir.Model) -> Iterator[tuple[str, ir.TensorProtocol]]:
    import onnx_ir as ir

    for graph in model.graphs():
        for name, value in graph.initializers.items():
            if value.const_value is not None:
                yield name, value.const_value
        for node in graph:
            for attribute in node.attributes.values():
                if attribute.type is ir.AttributeType.TENSOR:
                    yield f"{node.name}.{attribute.name}", attribute.as_tensor()


def _check_external(path: Path, name: str, tensor: ir.ExternalTensor) -> None:
    location = str(tensor.location)
    # What TensorRT and onnxruntime resolve is the text, so that the text is judged as well.
    climbs = ".." in Path(location).parts or PureWindowsPath(location).is_absolute()
    data = Path(tensor.path)
    if climbs or "\x00" in location or not data.resolve().is_relative_to(path.parent.resolve()):
        raise ExportError(
            f"'{path}' keeps '{name}' in '{location}', outside of its folder",
            "export the model again, with its data beside the ONNX file",
        )
    size = data.stat().st_size if data.is_file() else None
    offset, length = tensor.offset or 0, tensor.length
    end = offset + (tensor.nbytes if length is None else length)
    if size is None or size < end or offset < 0 or (length is not None and length < 0):
        state = "missing" if size is None else "cut short"
        raise ExportError(
            f"'{path}' keeps '{name}' in '{data}', which is {state}",
            "copy the data file whole, beside the ONNX file",
        )


def _check_inline(path: Path, name: str, tensor: ir.TensorProtoTensor) -> None:
    try:
        if tensor.raw.HasField("raw_data"):
            good = min(tensor.raw.dims, default=0) >= 0 and (
                len(tensor.raw.raw_data) == tensor.nbytes
            )
        else:
            # A few numbers, in a field of their type: as many bytes as numbers at least.
            good = tensor.size <= tensor.raw.ByteSize() and tensor.numpy().size == tensor.size
    except (ValueError, TypeError, OverflowError) as error:
        raise _damaged(path, name) from error
    if not good:
        raise _damaged(path, name)


def _damaged(path: Path, name: str) -> ExportError:
    return ExportError(
        f"'{path}' has other bytes in its tensor '{name}' than the shape and type need",
        "copy the file again, or build it again with `deploy build`",
    )
