"""ONNX's protobuf encoding, as far as it takes to leave weights where they are.

Protobuf builds a message in memory and serializes it into memory: writing BERT-base, a file of
0.4 GB, that way takes 2 GB and 5 seconds, and reading it another copy. Here all but the weights
goes through protobuf. Weights are written from where they are, and read as views of the mapped
file. The bytes are those that protobuf itself writes.

The encoding: https://protobuf.dev/programming-guides/encoding. The numbers of fields: onnx.proto.
"""

from __future__ import annotations

import math
import mmap
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import SEEK_END
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

# Fields that are taken apart; all are length-delimited.
_MODEL_GRAPH = 7
_GRAPH_INITIALIZER = 5
_TENSOR_RAW_DATA = 9

_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5
_VARINT_BYTES = 10  # 64 bits, 7 in each

# What is smaller goes through protobuf: it is not worth a view.
_MAPPED_BYTES = 1024


def write_model(model: ir.Model, file: BinaryIO) -> None:
    """Serialize a model, weight by weight.

    Args:
        model: What it holds is under 2 GB altogether, the most that protobuf reads back.
        file: Open for writing.

    Raises:
        OSError: The file cannot be written.
    """
    import onnx_ir as ir

    with _weights_aside(model) as weights:
        proto = ir.serde.serialize_model(model)
    graph_before, graph_after = _around(proto.graph, _GRAPH_INITIALIZER)
    parts: list[bytes | ir.TensorProtocol] = [graph_before]
    for tensor in proto.graph.initializer:
        parts += _tensor(tensor, weights.get(tensor.name))
    parts.append(graph_after)
    before, after = _around(proto, _MODEL_GRAPH)
    file.write(before + _opening(_MODEL_GRAPH, sum(map(_size, parts))))
    for part in parts:
        file.write(part if isinstance(part, bytes) else _content(part))
    file.write(after)


def read_model(path: Path) -> ir.Model:
    """Read a model whose weights are views of the file.

    The views keep the content of the file that was read, whatever is renamed over it later.

    Raises:
        OSError: The file cannot be opened.
        Exception: It is not ONNX; of many types, some of them protobuf's and onnx_ir's.
    """
    import onnx
    import onnx_ir as ir

    with path.open("rb") as file:
        if not file.seek(0, SEEK_END):
            raise ValueError("the file is empty")  # to protobuf, a model that says nothing
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    proto = onnx.ModelProto()
    weights = {}
    for field in _fields(content, 0, len(content)):
        if not field.holds(_MODEL_GRAPH):
            proto.MergeFromString(content[field.begin : field.end])
            continue
        for member in _fields(content, field.start, field.end):
            if not member.holds(_GRAPH_INITIALIZER):
                proto.graph.MergeFromString(content[member.begin : member.end])
                continue
            tensor = proto.graph.initializer.add()
            raw_data = None
            for part in _fields(content, member.start, member.end):
                if part.holds(_TENSOR_RAW_DATA) and part.end - part.start >= _MAPPED_BYTES:
                    raw_data = part
                else:
                    tensor.MergeFromString(content[part.begin : part.end])
            if raw_data is None:
                continue
            if ir.DataType(tensor.data_type).bitwidth < 8:  # packed, which numpy has no view of
                tensor.raw_data = content[raw_data.start : raw_data.end]
            else:
                weights[tensor.name] = _view(content, raw_data, tensor)
    if not proto.HasField("graph"):
        raise ValueError("it has no graph")
    _check_text(proto)
    model = ir.serde.deserialize_model(proto)
    for name, weight in weights.items():
        value = model.graph.initializers[name]
        assert value.const_value is not None  # protobuf has told all of it but the content
        value.const_value = ir.Tensor(
            weight,
            name=name,
            doc_string=value.const_value.doc_string,
            metadata_props=dict(value.const_value.metadata_props),
        )
    ir.external_data.set_base_dir(model.graph, path.parent)
    return model


def _check_text(message: Any) -> None:
    """Refuse strings that are no text.

    Protobuf's strings are UTF-8, which it does not check of a proto2 message such as ONNX's: it
    gives the bytes. TensorRT takes them, and its Python API then loses every message that quotes
    one, the layers of the engine among them.

    Raises:
        ValueError: A string is not UTF-8.
    """
    for field, value in message.ListFields():
        if field.type == field.TYPE_STRING:
            for each in value if field.is_repeated else (value,):
                if isinstance(each, bytes):
                    raise ValueError(f"{field.full_name} is not UTF-8: {each!r}")
        elif field.type == field.TYPE_MESSAGE:
            for each in value if field.is_repeated else (value,):
                _check_text(each)


@contextmanager
def _weights_aside(model: ir.Model) -> Iterator[dict[str, ir.TensorProtocol]]:
    """Give every initializer a tensor without content while the context is open."""
    import onnx
    import onnx_ir as ir

    weights = {
        name: value.const_value
        for name, value in model.graph.initializers.items()
        if value.const_value is not None and value.const_value.dtype is not ir.DataType.STRING
    }
    try:
        for name, weight in weights.items():
            hollow = onnx.TensorProto(
                name=name,
                dims=weight.shape.numpy(),
                data_type=weight.dtype.value,
                doc_string=weight.doc_string or None,
            )
            aside = ir.serde.TensorProtoTensor(hollow)
            aside.metadata_props.update(weight.metadata_props)
            model.graph.initializers[name].const_value = aside
        yield weights
    finally:
        for name, weight in weights.items():
            model.graph.initializers[name].const_value = weight


def _around(message: Any, number: int) -> tuple[bytes, bytes]:
    """What is serialized before a field of a protobuf message, and what after it."""
    before, after = type(message)(), type(message)()
    for field, _ in message.ListFields():
        if field.number != number:
            half = before if field.number < number else after
            if field.is_repeated:
                getattr(half, field.name).MergeFrom(getattr(message, field.name))
            else:
                setattr(half, field.name, getattr(message, field.name))
    return before.SerializeToString(), after.SerializeToString()


def _tensor(proto: Any, weight: ir.TensorProtocol | None) -> tuple[bytes | ir.TensorProtocol, ...]:
    """An initializer as parts of its graph."""
    before, after = _around(proto, _TENSOR_RAW_DATA)
    if weight is None:
        return (_opening(_GRAPH_INITIALIZER, len(before) + len(after)) + before + after,)
    before += _opening(_TENSOR_RAW_DATA, weight.nbytes)
    length = len(before) + weight.nbytes + len(after)
    return _opening(_GRAPH_INITIALIZER, length) + before, weight, after


def _size(part: bytes | ir.TensorProtocol) -> int:
    return len(part) if isinstance(part, bytes) else part.nbytes


def _content(tensor: ir.TensorProtocol) -> bytes | memoryview:
    """A tensor as ONNX stores it: little-endian, without a copy where it lies there like that."""
    if sys.byteorder == "big" or tensor.dtype.bitwidth < 8:
        return tensor.tobytes()
    return np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8).data


def _opening(number: int, length: int) -> bytes:
    """The tag and the length of a length-delimited field."""
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(length)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*encoded, value))


@dataclass(frozen=True)
class _Field:
    """Where a field of a message lies: from its tag at `begin`, its content from `start`."""

    number: int
    wire_type: int
    begin: int
    start: int
    end: int

    def holds(self, number: int) -> bool:
        """Whether it is this field, length-delimited."""
        return self.number == number and self.wire_type == _LENGTH_DELIMITED


def _fields(content: mmap.mmap, begin: int, end: int) -> Iterator[_Field]:
    """The fields of the message in `content[begin:end]`.

    Raises:
        ValueError: It is no message.
    """
    while begin < end:
        tag, start = _read_varint(content, begin, end)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == _VARINT:
            _, stop = _read_varint(content, start, end)
        elif wire_type == _LENGTH_DELIMITED:
            length, start = _read_varint(content, start, end)
            stop = start + length
        elif wire_type in (_FIXED32, _FIXED64):
            stop = start + (4 if wire_type == _FIXED32 else 8)
        else:
            raise ValueError(f"no protobuf: wire type {wire_type} at byte {begin}")
        if number == 0 or stop > end:
            raise ValueError(f"no protobuf: field {number} at byte {begin} ends at {stop}")
        yield _Field(number, wire_type, begin, start, stop)
        begin = stop


def _read_varint(content: mmap.mmap, begin: int, end: int) -> tuple[int, int]:
    """A number and the position behind it."""
    value = 0
    for index, byte in enumerate(content[begin : min(end, begin + _VARINT_BYTES)]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, begin + index + 1
    raise ValueError(f"no protobuf: no number at byte {begin}")


def _view(content: mmap.mmap, raw_data: _Field, tensor: Any) -> NDArray[Any]:
    import onnx_ir as ir

    dtype, shape = ir.DataType(tensor.data_type).numpy(), tuple(tensor.dims)
    count, size = math.prod(shape), raw_data.end - raw_data.start
    if size != count * dtype.itemsize:
        raise ValueError(f"'{tensor.name}' {list(shape)} has {size} bytes")
    view: NDArray[Any] = np.frombuffer(content, dtype, count, raw_data.start)
    return view.reshape(shape)
