"""onnxruntime on the CPU: runs the same Q/DQ graph with FP32 arithmetic."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

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

    def __init__(self, onnx: Path, precision: Precision, profiles: tuple[Profile, ...]) -> None:
        self.info = SessionInfo(
            backend=Backend.ONNXRUNTIME,
            arithmetic="fp32",
            simulated=precision is not Precision.FP32,
            device=cpu_name(),
        )
        self.profiles = profiles
        self._session = _open(onnx, precision)
        self.input_names = tuple(value.name for value in self._session.get_inputs())
        self._output_names = [value.name for value in self._session.get_outputs()]

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Run one batch; see `Session.run`."""
        batch, sequence = inputs[self.input_names[0]].shape
        if not any(
            profile.min.batch <= batch <= profile.max.batch
            and profile.min.sequence <= sequence <= profile.max.sequence
            for profile in self.profiles
        ):
            raise BackendError(
                f"a batch of {batch} x {sequence} tokens fits no profile",
                "build with --max-batch and --buckets that cover it",
            )
        results = self._session.run(
            self._output_names, {name: inputs[name] for name in self.input_names}
        )
        return dict(zip(self._output_names, results, strict=True))


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
