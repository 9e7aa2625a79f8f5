"""The cells of `accuracy.py --backend torch`: a graph on the GPU's 8-bit tensor cores.

Each is held against FP32, as every cell is, and against onnxruntime's simulation of the very same
file: how far the metric, the answers and the logits lie apart, beside what quantizing moved the
logits.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from accuracy_cells import Bench, Cell, Job, make_cell, make_model
from accuracy_outcomes import Outcome, distance, execute

from calib_data.progress import Progress
from deploy.engine.ort import OrtSession
from deploy.engine.session import Backend, Precision
from deploy.engine.torch_session import TorchSession, gpu_lowering
from deploy.environment import gpu_targets
from deploy.errors import BackendError

# How a quantized graph is run on the GPU: as it is, and as `TorchSession` runs it without Triton.
_AS_IT_IS, _SOFTMAX_IN_16_BITS = "", "softmax in 16 bits"


def cell_kinds(job: Job) -> list[Cell]:
    """What sets the cells of a job apart, in the order in which `GpuBench.cells` gives them."""
    kinds = [{"backend": Backend.ONNXRUNTIME.value, "variant": _AS_IT_IS}]
    if job.precision is not Precision.FP32:
        variants = (_AS_IT_IS, _SOFTMAX_IN_16_BITS) if job.recipe else (_AS_IT_IS,)
        kinds += [{"backend": Backend.TORCH.value, "variant": each} for each in variants]
    return kinds


class GpuBench:
    """The models of one checkpoint on the GPU."""

    def __init__(self, bench: Bench, progress: Progress) -> None:
        """Run FP32, the reference.

        Raises:
            BackendError: There is no GPU.
        """
        if not gpu_targets():
            raise BackendError("--backend torch: no GPU is visible", "leave it out here")
        self._progress = progress
        reference = self._run_simulated(bench, Job(Precision.FP32), bench.fp32)
        self._fp32 = reference
        self._bench = replace(bench, reference=reference.run.predictions)

    def cells(self, job: Job) -> Iterator[Cell]:
        """The cells of a graph: FP32 is executed by onnxruntime, all else by both."""
        if job.precision is Precision.FP32:
            yield make_cell(self._bench, job, self._fp32.run)
            return
        path = make_model(self._bench, job)
        simulated = self._run_simulated(self._bench, job, path)
        yield make_cell(self._bench, job, simulated.run)
        for variant in [kind["variant"] for kind in cell_kinds(job)[1:]]:
            started = time.monotonic()
            session = self._open(job, path, variant)
            warmup = time.monotonic() - started
            with session:
                found = execute(session, job, self._bench, self._progress)
            cell = make_cell(self._bench, job, found.run)
            yield {
                **cell,
                "variant": variant,
                "warmup_seconds": round(warmup, 3),
                "simulated_parts": list(found.run.info.simulated_parts),
                "against_simulation": distance(self._bench.data, found, simulated, self._fp32),
            }

    def _open(self, job: Job, path: Path, variant: str) -> TorchSession:
        lowering = gpu_lowering(job.precision)
        if variant == _SOFTMAX_IN_16_BITS:
            lowering = replace(lowering, fused_quantization=False)
        profiles = self._bench.profiles
        with self._progress.status(f"Compiling {job.name}"):
            session = TorchSession(
                path, job.precision, profiles, self._bench.data.pad_token_id, lowering=lowering
            )
            session.warmup((profiles[0].max.batch,))
        return session

    def _run_simulated(self, bench: Bench, job: Job, path: Path) -> Outcome:
        session = OrtSession(path, job.precision, bench.profiles, bench.data.pad_token_id)
        return execute(session, job, bench, self._progress)
