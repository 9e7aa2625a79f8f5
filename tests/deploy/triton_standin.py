"""A server of generated repositories: Triton's Python backend for texts, onnxruntime for encoders.

It has of `triton_python_backend_utils` what a Python model may use, and runs the repository's own
files. What a server checks of a request to an encoder, it checks: names, types, bucket, batch.
"""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import onnxruntime
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig

NUMPY = {"TYPE_INT64": np.int64, "TYPE_INT32": np.int32, "TYPE_FP32": np.float32}


def parse_config(model: Path) -> ModelConfig:
    return text_format.Parse((model / "config.pbtxt").read_text(encoding="utf-8"), ModelConfig())


class Tensor:
    def __init__(self, name, values):
        self.name, self._values = name, values

    def as_numpy(self):
        return self._values


class TritonError:
    INVALID_ARG = "invalid argument"

    def __init__(self, message, code="internal"):
        self._message, self.code = message, code

    def message(self):
        return self._message


class InferenceResponse:
    def __init__(self, output_tensors, error=None):
        self.tensors, self._error = {each.name: each for each in output_tensors}, error

    def has_error(self):
        return self._error is not None

    def error(self):
        return self._error


class Server:
    """Encoders of a repository, executed by onnxruntime; remembers the shapes it was sent."""

    def __init__(self, repository: Path) -> None:
        self._repository = repository
        self.asked: list[tuple[int, int]] = []
        self.failing_buckets: set[int] = set()

    def infer(self, name, outputs, inputs):
        model = self._repository / name
        config = parse_config(model)
        arrays = {each.name: each.as_numpy() for each in inputs}
        batch, bucket = arrays["input_ids"].shape
        self.asked.append((batch, bucket))
        if bucket in self.failing_buckets:
            return InferenceResponse([], TritonError("out of memory"))
        assert [each.name for each in config.input] == list(arrays)
        for each in config.input:
            assert arrays[each.name].dtype == NUMPY[DataType.Name(each.data_type)]
            assert arrays[each.name].shape == (batch, bucket)
        assert 1 <= batch <= config.max_batch_size
        assert bucket in {dict(w.inputs)["input_ids"].dims[0] for w in config.model_warmup}
        session = onnxruntime.InferenceSession(model / "1" / "model.onnx")
        found = session.run(list(outputs), arrays)
        return InferenceResponse([Tensor(*pair) for pair in zip(outputs, found, strict=True)])


def backend_utils(server: Server) -> ModuleType:
    utils = ModuleType("triton_python_backend_utils")

    class InferenceRequest:
        def __init__(self, model_name, requested_output_names, inputs, preferred_memory):
            assert preferred_memory == ("cpu", 0)
            self._call = (model_name, requested_output_names, inputs)

        async def async_exec(self):
            return server.infer(*self._call)

    utils.Tensor, utils.TritonError = Tensor, TritonError
    utils.InferenceRequest, utils.InferenceResponse = InferenceRequest, InferenceResponse
    utils.TRITONSERVER_MEMORY_CPU = "cpu"
    utils.PreferredMemory = lambda kind, device: (kind, device)
    utils.get_input_tensor_by_name = lambda request, name: request.tensors[name]
    utils.get_output_tensor_by_name = lambda response, name: response.tensors[name]
    return utils


@contextmanager
def text_model(repository: Path, name: str):
    """The Python model of a repository as the server loads it, and the server."""
    server, folder = Server(repository), repository / name / "1"
    names = ("triton_python_backend_utils", "bert_text")
    before = {each: sys.modules.pop(each, None) for each in names}
    sys.modules["triton_python_backend_utils"] = backend_utils(server)
    sys.path.append(str(folder))  # as the backend does
    try:
        spec = importlib.util.spec_from_file_location("model", folder / "model.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        model = module.TritonPythonModel()
        model.initialize({"model_name": name})
        yield model, server
    finally:
        sys.path.remove(str(folder))
        for each, module in before.items():
            sys.modules.pop(each, None)
            if module is not None:
                sys.modules[each] = module


def request(**texts):
    """A request of one example, or of several where lists are given; bytes stay as they are."""
    columns = {
        name: [each if isinstance(each, bytes) else each.encode() for each in rows]
        for name, value in texts.items()
        for rows in ([value] if isinstance(value, str | bytes) else value,)
    }
    return SimpleNamespace(
        tensors={
            name: Tensor(name, np.array(rows, dtype=object)[:, None])
            for name, rows in columns.items()
        }
    )


def execute(model, *requests):
    return asyncio.run(model.execute(list(requests)))
