"""Numeric parity: does the exported graph compute what the torch model computes?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib_data.tasks import Head
from export.checkpoint import Checkpoint
from export.errors import ExportError
from export.onnx_export import OUTPUT_NAMES, input_names

# FP32 sums in another order differ by about 1e-6; ten layers of a wrong graph by over 1e-2.
TOLERANCE = 1e-4

# Two batches, neither of the shape that was traced, so that a baked-in size cannot pass.
_SHAPES = ((1, 7), (3, 33))


def relative_error(value: NDArray[Any], reference: NDArray[Any]) -> float:
    """The relative error in the Frobenius norm, ||value - reference|| / ||reference||."""
    difference = np.linalg.norm(np.asarray(value, np.float64) - reference)
    return float(difference / np.linalg.norm(np.asarray(reference, np.float64)))


def verify_export(checkpoint: Checkpoint, onnx: Path, head: Head) -> float:
    """Run the exported FP32 graph and the torch model on the same random tokens, some padded.

    Returns:
        The largest relative error over the outputs and shapes tried.

    Raises:
        ExportError: It exceeds 1e-4.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(onnx), providers=["CPUExecutionProvider"])
    errors = []
    for batch, sequence in _SHAPES:
        shape = (batch, min(sequence, checkpoint.max_length))
        inputs = _random_tokens(checkpoint, shape)
        expected = _run_torch(checkpoint, inputs, head)
        actual = session.run(list(OUTPUT_NAMES[head]), inputs)
        # What a padded position answers is never read.
        real = inputs["attention_mask"] == 1
        for value, reference in zip(actual, expected, strict=True):
            if head is Head.QUESTION_ANSWERING:
                errors.append(relative_error(value[real], reference[real]))
            else:
                errors.append(relative_error(value, reference))
    largest = float(np.max(errors))  # a NaN among them wins
    if not largest <= TOLERANCE:
        raise ExportError(
            f"the exported graph differs from the torch model by {largest:.2g} (relative)",
            "report the checkpoint's model type and the versions that `deploy doctor` prints",
        )
    return largest


def _random_tokens(checkpoint: Checkpoint, shape: tuple[int, int]) -> dict[str, NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    model: Any = checkpoint.model
    ids = rng.integers(0, model.config.vocab_size, shape)
    mask = np.ones(shape, np.int64)
    if shape[0] > 1:
        mask[-1, shape[1] // 2 :] = 0
        ids[mask == 0] = checkpoint.tokenizer.pad_token_id
    inputs = {"input_ids": ids, "attention_mask": mask}
    if "token_type_ids" in input_names(model):
        inputs["token_type_ids"] = rng.integers(0, model.config.type_vocab_size, shape)
    return inputs


def _run_torch(
    checkpoint: Checkpoint, inputs: dict[str, NDArray[np.int64]], head: Head
) -> list[NDArray[np.float32]]:
    import torch

    with torch.inference_mode():
        result = checkpoint.model(**{k: torch.from_numpy(v) for k, v in inputs.items()})
    return [result[name].numpy() for name in OUTPUT_NAMES[head]]
