"""onnxruntime on the CPU: runs the same Q/DQ graph with FP32 arithmetic."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.engine.buckets import cut, input_shape, pad_into, per_token, pick_profile, write_out
from deploy.engine.profiles import Profile
from deploy.engine.session import Arrays, Backend, Precision, SessionInfo
from deploy.environment import cpu_name
from deploy.errors import BackendError
from export.onnx_file import read_onnx, write_onnx
from export.precision import FloatType, cast_floats


class OrtSession:
    """A model on onnxruntime's CPU provider.

    The graph is the engine's own, its 16-bit tensors cast up: the CPU has no FP16 arithmetic to
    speak of, and onnxruntime would round between some nodes and not between others. Weights,
    scales and 8-bit codes stay exactly the engine's. What is computed is therefore a simulation
    of the engine, and `info` says so.
    """

    def __init__(
        self,
        onnx: Path,
        precision: Precision,
        profiles: tuple[Profile, ...],
        pad_token_id: int = 0,
    ) -> None:
        """Open a model.

        Args:
            onnx: The model.
            precision: Its precision.
            profiles: Shapes that the engine accepts, by ascending sequence.
            pad_token_id: What `input_ids` are padded with; attention_mask masks it.
        """
        self.info = SessionInfo(
            backend=Backend.ONNXRUNTIME,
            arithmetic="fp32",
            simulated=precision is not Precision.FP32,
            device=cpu_name(),
        )
        self.profiles = profiles
        self._path = onnx
        self._session = _open(onnx, precision)
        declared = self._session.get_inputs()
        self.input_names = tuple(value.name for value in declared)
        self._dtypes = {value.name: _numpy_dtype(value.type) for value in declared}
        self._pads = {name: pad_token_id if name == "input_ids" else 0 for name in self._dtypes}
        outputs = self._session.get_outputs()
        if not declared or not outputs:
            raise BackendError(
                f"'{onnx}' has no {'outputs' if declared else 'inputs'}",
                "build it again with `deploy build`",
            )
        self._output_names = [value.name for value in outputs]
        self._per_token = [per_token(value.shape, declared[0].shape) for value in outputs]

    def run(
        self, inputs: Arrays, out: Mapping[str, NDArray[Any]] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Run one batch, padded in sequence only; see `Session.run`.

        Rows cost the CPU time and need no padding: nothing was compiled for a batch size. A profile
        of one sequence length is padded to, as an engine would; one of several is not.
        """
        shape = input_shape(inputs, self.input_names)
        profile = self.profiles[pick_profile(self.profiles, shape)]
        columns = max(shape.sequence, profile.min.sequence)
        feed = {name: self._padded(name, inputs[name], columns) for name in self.input_names}
        try:
            results = self._session.run(self._output_names, feed)
        # Its errors have no common base. Shapes within a graph are known only once it runs.
        except Exception as error:
            raise BackendError(
                f"onnxruntime cannot run '{self._path}': {error}",
                "build it again with `deploy build`",
            ) from error
        found = {
            name: cut(values, shape, by_token)
            for name, values, by_token in zip(
                self._output_names, results, self._per_token, strict=True
            )
        }
        targets = out or {}
        for name in targets.keys() & found.keys():
            found[name] = write_out(name, found[name], targets[name])
        return found

    def _padded(self, name: str, values: NDArray[Any], columns: int) -> NDArray[Any]:
        dtype = self._dtypes[name]
        if values.shape[1] == columns:
            return values.astype(dtype, copy=False)
        padded = np.empty((values.shape[0], columns), dtype)
        pad_into(padded, values, self._pads[name])
        return padded


def _numpy_dtype(declared: str) -> np.dtype[Any]:
    """The numpy type of onnxruntime's "tensor(int64)"."""
    return np.dtype(declared.removeprefix("tensor(").removesuffix(")"))


def _open(onnx: Path, precision: Precision) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Left to itself, onnxruntime turns INT8 Q/DQ into integer kernels whose rounding and
    # saturation depend on the CPU's instruction set.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    try:
        if precision is Precision.FP32:
            return onnxruntime.InferenceSession(
                str(onnx), options, providers=["CPUExecutionProvider"]
            )
        model = read_onnx(onnx)
        cast_floats(model, FloatType.FP32)
        with tempfile.TemporaryDirectory() as folder:
            twin = Path(folder) / onnx.name
            write_onnx(model, twin)
            return onnxruntime.InferenceSession(
                str(twin), options, providers=["CPUExecutionProvider"]
            )
    except Exception as error:
        raise BackendError(
            f"onnxruntime refuses '{onnx}': {error}",
            "build it again with `deploy build`",
        ) from error
