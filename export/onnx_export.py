"""Torch checkpoint -> FP32 ONNX with dynamic batch and sequence.

Two choices shape the graph that TensorRT sees. Attention is eager with an additive mask, because
a boolean mask leaves `Where(IsNaN)` behind the Softmax and breaks attention fusion. The mask is
built here, once, as [batch, 1, 1, sequence]: transformers' own mask expands to
[batch, 1, sequence, sequence] through a GatherND that the engine would run on every call.
"""

from __future__ import annotations

import inspect
import io
import logging
import types
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Any

from calib_data.tasks import Head
from export.checkpoint import Checkpoint
from export.errors import ExportError
from export.sites import SCOPES_KEY, encoder_sites, name_matmuls

if TYPE_CHECKING:
    import onnx_ir as ir
    from torch import Tensor

OPSET = 20

# Added to the scores of padded keys. exp(-30000) is 0 in every type, and FP16's 65,504 leaves
# room for scores down to -35,504 before the sum would become -inf.
MASK_BIAS = -30_000.0

OUTPUT_NAMES = {
    Head.SEQUENCE_CLASSIFICATION: ("logits",),
    Head.QUESTION_ANSWERING: ("start_logits", "end_logits"),
}

METADATA_PREFIX = "bert_trt_deploy."


def input_names(model: Any) -> tuple[str, ...]:
    """Names of the token inputs that a model reads, in the order of the ONNX graph's inputs."""
    parameters = inspect.signature(type(model).forward).parameters
    has_segments = (
        "token_type_ids" in parameters and getattr(model.config, "type_vocab_size", 0) > 1
    )
    return ("input_ids", "attention_mask") + (("token_type_ids",) if has_segments else ())


def export_onnx(checkpoint: Checkpoint, head: Head) -> ir.Model:
    """Export a checkpoint.

    Args:
        checkpoint: As `load_checkpoint` returns it.
        head: Decides the outputs: `logits` [batch, labels], or `start_logits` and `end_logits`
            [batch, sequence], all FP32.

    Returns:
        An FP32 model whose inputs are int64 [batch, sequence], opset 20, with the facts that
        later stages need in its metadata.

    Raises:
        ExportError: The exporter failed.
        SiteError: The graph lacks a MatMul that the architecture has.
    """
    import torch

    names = input_names(checkpoint.model)
    # One tensor an input: the exporter takes the same object twice for the same input.
    tokens = {name: torch.ones((2, 16), dtype=torch.int64) for name in names}
    batch, sequence = torch.export.Dim("batch"), torch.export.Dim("sequence")
    try:
        with _additive_mask_forward(checkpoint.model, OUTPUT_NAMES[head]), _quiet():
            program = torch.onnx.export(
                checkpoint.model,
                (),
                kwargs=tokens,
                dynamo=True,
                opset_version=OPSET,
                input_names=names,
                output_names=OUTPUT_NAMES[head],
                dynamic_shapes={name: {0: batch, 1: sequence} for name in names},
                verbose=False,
            )
    except Exception as error:
        raise ExportError(
            f"torch.onnx.export failed on '{checkpoint.source}': {type(error).__name__}: {error}",
            "run `deploy doctor` and compare the torch and transformers versions with the "
            "ranges in pyproject.toml",
        ) from error
    if program is None:
        raise ExportError("torch.onnx.export returned nothing", "run `deploy doctor`")
    model = program.model
    _describe(model, checkpoint, head)
    name_matmuls(model, encoder_sites(checkpoint.architecture, checkpoint.layers))
    return model


def _describe(model: ir.Model, checkpoint: Checkpoint, head: Head) -> None:
    model.metadata_props.update(
        {
            f"{METADATA_PREFIX}{key}": str(value)
            for key, value in (
                ("model_type", checkpoint.architecture.model_type),
                ("layers", checkpoint.layers),
                ("heads", checkpoint.heads),
                ("head_dim", checkpoint.head_dim),
                ("head", head.value),
                ("model_fingerprint", checkpoint.fingerprint),
            )
        }
    )
    for node in model.graph:
        # The exporter's stack traces name files of the machine that exports.
        for key in node.metadata_props.keys() - {SCOPES_KEY}:
            del node.metadata_props[key]


@contextmanager
def _additive_mask_forward(model: Any, outputs: tuple[str, ...]) -> Iterator[None]:
    """Give the model a forward that builds the additive mask and returns plain tensors.

    The forward is replaced on the instance, rather than wrapped in another module, so that the
    graph's module paths and initializer names stay those of the checkpoint.
    """

    def forward(
        self: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        keep = attention_mask[:, None, None, :].to(self.dtype)
        segments = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        result = type(self).forward(
            self, input_ids=input_ids, attention_mask=(1.0 - keep) * MASK_BIAS, **segments
        )
        return tuple(result[name] for name in outputs)

    model.forward = types.MethodType(forward, model)
    try:
        yield
    finally:
        del model.forward


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks about libraries that are not used off the terminal."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(level)
