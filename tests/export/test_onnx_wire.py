"""Weights that go around protobuf: the same bytes, and no damaged file taken for a good one."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from export.errors import ExportError
from export.onnx_file import read_onnx, write_onnx
from export.precision import FloatType, cast_floats


@pytest.mark.parametrize("carried", FloatType)
def test_bytes_are_those_of_protobuf(exported, carried, tmp_path):
    model = exported.graph()
    cast_floats(model, carried)
    write_onnx(model, tmp_path / "ours.onnx")
    onnx.save(ir.to_proto(model), tmp_path / "protobuf.onnx")
    assert (tmp_path / "ours.onnx").read_bytes() == (tmp_path / "protobuf.onnx").read_bytes()


@pytest.mark.parametrize("dtype", ["BOOL", "INT4", "FLOAT8E4M3FN", "DOUBLE", "STRING"])
@pytest.mark.parametrize("shape", [(), (0,), (3, 1001)])
def test_every_type_and_shape_comes_back(exported, dtype, shape, tmp_path):
    model = exported.graph()
    kind = ir.DataType[dtype]
    if kind is ir.DataType.STRING:
        values = np.full(shape, b"text", object)
        tensor = ir.StringTensor(values, shape=ir.Shape(shape))
    else:
        values = (np.arange(np.prod(shape, dtype=int)) % 7).reshape(shape).astype(kind.numpy())
        tensor = ir.Tensor(values, dtype=kind, doc_string="a remark", name="extra")
        tensor.metadata_props["key"] = "value"
    model.graph.register_initializer(ir.Value(name="extra", const_value=tensor))
    write_onnx(model, tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").read_bytes() == ir.to_proto(model).SerializeToString()
    found = read_onnx(tmp_path / "model.onnx").graph.initializers["extra"].const_value
    assert (found.dtype, found.shape) == (kind, ir.Shape(shape))
    np.testing.assert_array_equal(found.numpy(), values)


def test_writing_leaves_the_model_as_it_was(exported, tmp_path):
    model = exported.graph()
    before = {name: value.const_value for name, value in model.graph.initializers.items()}
    write_onnx(model, tmp_path / "model.onnx")
    assert all(
        before[name] is value.const_value for name, value in model.graph.initializers.items()
    )


def test_weights_outlive_the_file_that_they_were_read_from(exported, tmp_path):
    """A graph is read, changed and written under the same name, and read on."""
    path = tmp_path / "model.onnx"
    path.write_bytes(exported.onnx.read_bytes())
    model = read_onnx(path)
    cast_floats(read := read_onnx(path), FloatType.FP16)
    write_onnx(read, path)
    for name, value in exported.graph().graph.initializers.items():
        np.testing.assert_array_equal(
            model.graph.initializers[name].const_value.numpy(), value.const_value.numpy()
        )


def test_cut_anywhere_it_is_an_error(exported, tmp_path):
    content = exported.onnx.read_bytes()
    rng = np.random.default_rng(0)
    for length in (0, 1, len(content) - 1, *rng.integers(2, len(content), 30)):
        (tmp_path / "cut.onnx").write_bytes(content[:length])
        with pytest.raises(ExportError, match="as ONNX"):
            read_onnx(tmp_path / "cut.onnx")


def test_changed_anywhere_it_is_read_as_protobuf_reads_it_or_refused(exported, tmp_path):
    """Where it is taken, every weight is what protobuf finds."""
    content = bytearray(exported.onnx.read_bytes())
    rng = np.random.default_rng(0)
    # Small positions among them: that is where lengths and names are.
    places = [*rng.integers(0, len(content), 20), *rng.integers(0, 4000, 40)]
    refused = 0
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 1 << int(rng.integers(8))
        path = tmp_path / "changed.onnx"
        path.write_bytes(changed)
        try:
            found = read_onnx(path)
        except ExportError:
            refused += 1
            continue
        expected = ir.load(path)
        assert found.graph.initializers.keys() == expected.graph.initializers.keys()
        for name, value in expected.graph.initializers.items():
            assert (
                found.graph.initializers[name].const_value.tobytes() == value.const_value.tobytes()
            )
    assert 0 < refused < len(places)


def test_weight_of_another_size_than_its_shape_says(exported, tmp_path):
    proto = onnx.load(exported.onnx)
    largest = max(proto.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    largest.raw_data = largest.raw_data[:-4]
    onnx.save(proto, tmp_path / "model.onnx")
    with pytest.raises(ExportError, match=f"'{largest.name}'"):
        read_onnx(tmp_path / "model.onnx")


@pytest.mark.parametrize("field", ["NodeProto.name", "NodeProto.input", "ValueInfoProto.name"])
def test_names_that_are_no_text_are_refused(exported, field, tmp_path):
    """Readers that write their errors in Python could not name what is wrong."""
    proto = onnx.load(exported.onnx)
    name = {
        "NodeProto.name": proto.graph.node[0].name,
        "NodeProto.input": proto.graph.node[-1].input[0],
        "ValueInfoProto.name": proto.graph.output[0].name,
    }[field].encode()
    content = proto.SerializeToString().replace(name, name[:-1] + b"\xff")
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ExportError, match="is not UTF-8"):
        read_onnx(tmp_path / "model.onnx")
