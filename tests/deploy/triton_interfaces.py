"""Names, types and shapes of a model, as each of its sources has them."""

from __future__ import annotations

import re
import struct

import onnx
from tritonclient.grpc.model_config_pb2 import DataType


def declared(tensors):
    return [(each.name, DataType.Name(each.data_type), list(each.dims)) for each in tensors]


def of_onnx(path):
    graph = onnx.load(path).graph
    types = {onnx.TensorProto.INT64: "TYPE_INT64", onnx.TensorProto.FLOAT: "TYPE_FP32"}
    return [
        [
            (
                value.name,
                types[value.type.tensor_type.elem_type],
                [dim.dim_value or -1 for dim in value.type.tensor_type.shape.dim[1:]],
            )
            for value in values
        ]
        for values in (graph.input, graph.output)
    ]


def of_tensorrt(path):
    import tensorrt_rtx as trt

    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    assert parser.parse_from_file(str(path))
    types = {trt.int64: "TYPE_INT64", trt.float32: "TYPE_FP32"}
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    outputs = [network.get_output(i) for i in range(network.num_outputs)]
    return [
        [(each.name, types[each.dtype], list(each.shape)[1:]) for each in tensors]
        for tensors in (inputs, outputs)
    ]


# A tensor of a plan, as TensorRT for RTX 1.7 writes it: name and profile, type, strides. The layout
# is not documented; deserialising a plan would tell the same, and needs a GPU.
_PLAN_TENSOR = re.compile(
    rb"([a-z_]+)(?: \[profile (\d+)\])?"
    rb"\x1c\x80\x01\x00\x03\x80\x01\x00\x00\r\x80\x01\x00\x07\x80\x01\x00(.{4})"
    rb"\x03\x80\x01\x00\x00\x01\x80\t\x80\x01\x00\x08\x00{7}(.{16})",
    re.DOTALL,
)

# As nvinfer1::DataType numbers them.
_PLAN_TYPES = {0: "TYPE_FP32", 8: "TYPE_INT64"}


def of_plan(path):
    """By profile, the name, type and length of a row of every tensor that goes in or out."""
    found = {}
    for name, profile, kind, strides in _PLAN_TENSOR.findall(path.read_bytes()):
        row, element = struct.unpack("<2q", strides)
        assert element == 1
        tensor = (name.decode(), _PLAN_TYPES[struct.unpack("<i", kind)[0]], row)
        found.setdefault(int(profile or 0), []).append(tensor)
    return [sorted(found[profile]) for profile in sorted(found)]
