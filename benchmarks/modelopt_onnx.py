"""The other side of quantize_speed.py: `modelopt.onnx.quantization.quantize`, timed.

Runs in an environment of its own, without this project, because modelopt's [onnx] extra asks for
other versions of onnx and onnxruntime. quantize_speed.py starts it.

    PYTHON benchmarks/modelopt_onnx.py model.fp32.onnx samples.npz BATCH out.onnx result.json
"""

from __future__ import annotations

import json
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path

from process_memory import peak_mb, resident_mb

_PACKAGES = (
    "nvidia-modelopt",
    "torch",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnx-graphsurgeon",
    "onnxslim",
)


def main() -> None:
    """Quantize, and write what it took."""
    onnx, samples, batch, output, result = sys.argv[1:]
    # Not timed, and on the other side neither: imports, and reading the samples.
    import numpy as np
    from modelopt.onnx.quantization import quantize

    with np.load(samples) as file:
        data = {name: file[name] for name in file.files}
    # Without shapes, every dynamic dimension is taken as 1: batches of one row.
    shapes = ",".join(f"{name}:{batch}x{rows.shape[1]}" for name, rows in data.items())
    start = resident_mb()
    started = time.monotonic()
    quantize(
        onnx,
        quantize_mode="fp8",
        calibration_data=data,
        calibration_method="max",
        calibration_shapes=shapes,
        calibration_eps=["cpu"],
        high_precision_dtype="fp16",
        output_path=output,
        log_level="ERROR",
    )
    seconds = time.monotonic() - started
    measured = {
        "seconds": seconds,
        "start_mb": start,
        "peak_mb": peak_mb(),
        "packages": {
            "python": platform.python_version(),
            **{name: version(name) for name in _PACKAGES},
        },
    }
    Path(result).write_text(json.dumps(measured), encoding="utf-8")


if __name__ == "__main__":
    main()
