"""Where each supported encoder keeps the modules that carry quantizable tensors.

Everything downstream (calibration, Q/DQ insertion, fusion expectations) reads module paths from
here; a new encoder is one more row of `ARCHITECTURES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.errors import UnsupportedModelError


@dataclass(frozen=True)
class Architecture:
    """Module paths of one encoder family, as `transformers` names them.

    Attributes:
        model_type: `config.model_type`.
        layer: Path of encoder layer number `{}`.
        attention: The module that runs both attention MatMuls, relative to the layer.
        query: Query projection, relative to the layer.
        key: Key projection, relative to the layer.
        value: Value projection, relative to the layer.
        attention_output: Projection after attention, relative to the layer.
        ffn_in: First feed-forward linear, relative to the layer.
        ffn_out: Second feed-forward linear, relative to the layer.
    """

    model_type: str
    layer: str
    attention: str
    query: str
    key: str
    value: str
    attention_output: str
    ffn_in: str
    ffn_out: str


def _bert_like(model_type: str, layer: str) -> Architecture:
    return Architecture(
        model_type=model_type,
        layer=layer,
        attention="attention.self",
        query="attention.self.query",
        key="attention.self.key",
        value="attention.self.value",
        attention_output="attention.output.dense",
        ffn_in="intermediate.dense",
        ffn_out="output.dense",
    )


ARCHITECTURES: dict[str, Architecture] = {
    architecture.model_type: architecture
    for architecture in (
        _bert_like("bert", "bert.encoder.layer.{}"),
        _bert_like("roberta", "roberta.encoder.layer.{}"),
        _bert_like("xlm-roberta", "roberta.encoder.layer.{}"),
        _bert_like("camembert", "roberta.encoder.layer.{}"),
        _bert_like("electra", "electra.encoder.layer.{}"),
        Architecture(
            model_type="distilbert",
            layer="distilbert.transformer.layer.{}",
            attention="attention",
            query="attention.q_lin",
            key="attention.k_lin",
            value="attention.v_lin",
            attention_output="attention.out_lin",
            ffn_in="ffn.lin1",
            ffn_out="ffn.lin2",
        ),
    )
}


_USE_ONE_OF = f"use --model with a checkpoint of one of: {', '.join(ARCHITECTURES)}"


def get_architecture(model_type: str) -> Architecture:
    """Look an encoder family up.

    Raises:
        UnsupportedModelError: Not an encoder this toolchain knows; the remedy lists those it does.
    """
    try:
        return ARCHITECTURES[model_type]
    except KeyError:
        raise UnsupportedModelError(
            f"a model of type '{model_type}' is not a supported encoder", _USE_ONE_OF
        ) from None


def check_supported(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse another kind of model, before a library that does not know it either says so.

    Args:
        folder: Of the checkpoint.
        config: Its config.json; one without a type is for transformers to tell.

    Raises:
        UnsupportedModelError: It is not of an encoder that this toolchain knows.
    """
    model_type = config.get("model_type")
    if model_type in ARCHITECTURES:
        return
    if "auto_map" in config:
        raise UnsupportedModelError(
            f"'{folder}' is a model of type '{model_type}' that brings its own code (auto_map), "
            "and code of a checkpoint is never run",
            _USE_ONE_OF,
        )
    if isinstance(model_type, str):
        get_architecture(model_type)
