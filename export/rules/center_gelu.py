"""Center what the second feed-forward linear reads: W g + b = W (g - c) + (b + W c).

A GELU's output is lopsided, nothing below -0.17 and a long tail above, so that a symmetric format
leaves half of its codes unused, and every channel's mean is carried in coarse steps. The Sub is
element-wise between GELU and Q, where a builder fuses both. Shifting channels ahead of
quantization: Outlier Suppression+ (Wei et al. 2023).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from export.rules.rewrite import Rewrite, linear_nodes, new_constant, shift_bias, weight_of
from export.sites import LayerNames, Site, bias_add

if TYPE_CHECKING:
    import onnx_ir as ir

RULE = "center_gelu"


def center_gelu(
    model: ir.Model,
    layers: Sequence[LayerNames],
    sites: tuple[Site, ...],
    centers: Mapping[str, NDArray[np.float32]],
) -> Rewrite:
    """Subtract the center of each GELU's output and fold it into the next bias, in place.

    Args:
        model: An FP32 model as `export_onnx` returns it; the function it computes stays the same.
        layers: As `layer_names` gives them.
        sites: All sites of the model.
        centers: Site name to its center, float32 [intermediate], for the input of every `ffn_out`.
    """
    import onnx_ir as ir

    linears = linear_nodes(model, sites)
    applied, refused, centered = [], {}, set[str]()
    for layer in layers:
        linear = linears[layer.ffn_out]
        if bias_add(linear) is None:
            refused[layer.ffn_out] = "it has no bias to fold a center into"
            continue
        center = centers[layer.gelu_site].astype(np.float64)
        value = linear.inputs[0]
        assert value is not None  # a MatMul has two inputs
        subtract = ir.Node(
            "",
            "Sub",
            [value, new_constant(model, f"{layer.gelu_site}.center", center)],
            name=f"{layer.gelu_site}.Sub",
        )
        result = subtract.outputs[0]
        result.name, result.shape, result.type = (
            f"{layer.gelu_site}.centered",
            value.shape,
            value.type,
        )
        model.graph.insert_before(linear, subtract)
        linear.replace_input_with(0, result)
        back = center @ weight_of(linear).astype(np.float64)
        shift_bias(model, linear, back, f"{layer.ffn_out}.centered_bias")
        applied.append(layer.ffn_out)
        centered.add(layer.gelu_site)
    return Rewrite(RULE, tuple(applied), refused, frozenset(centered))
