"""Ways in which an ONNX file goes bad that protobuf does not notice."""

from __future__ import annotations

from random import Random
from typing import Any

from mutations import mutate_bytes


def mutate_onnx(content: bytes, choose: Random) -> bytes:
    """Another graph that protobuf still reads, mostly."""
    import onnx

    if choose.randrange(3) == 0:
        return mutate_bytes(content, choose)
    model = onnx.load_from_string(content)
    for _ in range(choose.choice((1, 1, 3))):
        _ONNX[choose.randrange(len(_ONNX))](model, choose)
    return bytes(model.SerializeToString())


def _other_dims(model: Any, choose: Random) -> None:
    tensor = choose.choice(model.graph.initializer)
    dims = choose.choice(([2**40], [2**31, 2**31], [-1], [0], list(tensor.dims)[::-1], []))
    del tensor.dims[:]
    tensor.dims.extend(dims)


def _other_type(model: Any, choose: Random) -> None:
    choose.choice(model.graph.initializer).data_type = choose.choice((0, 1, 7, 10, 17, 999))


def _no_data(model: Any, choose: Random) -> None:
    tensor = choose.choice(model.graph.initializer)
    tensor.raw_data = choose.choice((b"", tensor.raw_data[:-1], tensor.raw_data + b"\x00" * 64))


def _external(model: Any, choose: Random) -> None:
    tensor = choose.choice(model.graph.initializer)
    tensor.ClearField("raw_data")
    tensor.data_location = 1
    fields = {
        "location": choose.choice(("../../etc/passwd", "/etc/passwd", "missing.bin", "", "\x00")),
        "offset": choose.choice(("0", "-1", "9" * 30, "x")),
        "length": choose.choice(("16", "-1", str(2**62), "x")),
    }
    for key, value in fields.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value


def _no_node(model: Any, choose: Random) -> None:
    del model.graph.node[choose.randrange(len(model.graph.node))]


def _other_operator(model: Any, choose: Random) -> None:
    choose.choice(model.graph.node).op_type = choose.choice(("", "Loop", "MatMul", "Nowhere"))


def _other_edge(model: Any, choose: Random) -> None:
    nodes = [node for node in model.graph.node if node.input]
    node, other = choose.choice(nodes), choose.choice(model.graph.node)
    node.input[choose.randrange(len(node.input))] = choose.choice(("", "nowhere", other.output[0]))


def _other_output(model: Any, choose: Random) -> None:
    choose.choice(model.graph.node).output[0] = choose.choice(("", model.graph.node[0].output[0]))


def _other_attribute(model: Any, choose: Random) -> None:
    nodes = [node for node in model.graph.node if node.attribute]
    attribute = choose.choice(choose.choice(nodes).attribute)
    attribute.type = choose.choice((0, 1, 2, 3, 4, 7))
    attribute.i = choose.choice((-1, 2**62, 0))


def _other_opset(model: Any, choose: Random) -> None:
    model.opset_import[0].version = choose.choice((-1, 0, 1, 10**6))


def _other_inputs(model: Any, choose: Random) -> None:
    for value in (*model.graph.input, *model.graph.output):
        if choose.randrange(3) == 0:
            value.CopyFrom(choose.choice((type(value)(), type(value)(name="x"))))


def _no_inputs(model: Any, choose: Random) -> None:
    del choose.choice((model.graph.input, model.graph.output))[:]


def _other_scale(model: Any, choose: Random) -> None:
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) == 4 and choose.randrange(2):
            tensor.raw_data = choose.choice((b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\x00" * 4))


def _other_metadata(model: Any, choose: Random) -> None:
    node = choose.choice(model.graph.node)
    del node.metadata_props[:]
    entry = node.metadata_props.add()
    entry.key, entry.value = "pkg.torch.onnx.name_scopes", choose.choice(("", "[", "['a', 1]"))


_ONNX = (
    _other_dims,
    _other_type,
    _no_data,
    _external,
    _no_node,
    _other_operator,
    _other_edge,
    _other_output,
    _other_attribute,
    _other_opset,
    _other_inputs,
    _no_inputs,
    _other_scale,
    _other_metadata,
)
