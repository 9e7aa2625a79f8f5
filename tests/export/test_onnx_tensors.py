"""Weights of an ONNX file that are not what the file says."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.errors import ExportError
from export.onnx_file import read_onnx


def model(**changes) -> onnx.ModelProto:
    weight = numpy_helper.from_array(np.arange(12, dtype=np.float32).reshape(3, 4), "w")
    for name, value in changes.items():
        if name == "dims":
            del weight.dims[:]
            weight.dims.extend(value)
        else:
            setattr(weight, name, value)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


def external(**fields: str) -> onnx.ModelProto:
    built = model()
    weight = built.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in fields.items():
        entry = weight.external_data.add()
        entry.key, entry.value = key, value
    return built


def test_whole_weights_are_read(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(model(), path)
    assert read_onnx(path).graph.initializers["w"].const_value.shape == (3, 4)
    (tmp_path / "w.data").write_bytes(bytes(48))
    onnx.save(external(location="w.data"), path)
    assert read_onnx(path).graph.initializers["w"].const_value.shape == (3, 4)


@pytest.mark.parametrize(
    "changes",
    [
        {"raw_data": b""},
        {"raw_data": bytes(44)},
        {"raw_data": bytes(52)},
        {"dims": (2**40,)},
        {"dims": (2**31, 2**31)},
        {"dims": (-1, 4)},
        {"dims": ()},
        {"data_type": TensorProto.INT64},
    ],
)
def test_weights_of_another_size_than_their_shape(tmp_path, changes):
    path = tmp_path / "model.onnx"
    path.write_bytes(model(**changes).SerializeToString())
    with pytest.raises(ExportError, match="'w'"):
        read_onnx(path)


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "a/../../secret", "link"])
def test_weights_outside_of_the_folder_are_not_read(tmp_path, location):
    folder = tmp_path / "onnx"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(48))
    (folder / "link").symlink_to(tmp_path / "secret")
    path = folder / "model.onnx"
    path.write_bytes(external(location=location).SerializeToString())
    with pytest.raises(ExportError, match="outside of its folder"):
        read_onnx(path)


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({"location": "nowhere"}, "missing"),
        ({"location": "w.data", "offset": "4"}, "cut short"),
        ({"location": "w.data", "length": str(2**62)}, "cut short"),
        ({"location": "w.data", "offset": "-4", "length": "48"}, "as ONNX"),
    ],
)
def test_external_weights_that_are_not_whole(tmp_path, fields, state):
    (tmp_path / "w.data").write_bytes(bytes(48))
    path = tmp_path / "model.onnx"
    path.write_bytes(external(**fields).SerializeToString())
    with pytest.raises(ExportError, match=state):
        read_onnx(path)
