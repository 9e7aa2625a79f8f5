"""Center attention's keys and values, at no cost: the shift moves into biases that exist already.

softmax(q(k - c)^T) = softmax(qk^T - qc^T) = softmax(qk^T), because qc^T is the same for every key
of a row; and P(v - d) = Pv - d, because the rows of P sum to 1, so that the bias of the projection
after attention takes Wd back in. It matters most for INT8: a softmax over hundreds of tokens holds
mostly probabilities below half a step of 1/127, which become 0 and take their share of Pv along.
What small probabilities share out is nearly v's mean; once that is 0, nothing is lost with them.

Centering k: SageAttention (Zhang et al. 2024, section 4.2). Shifting channels ahead of
quantization: Outlier Suppression+ (Wei et al. 2023).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from export.rules.rewrite import Rewrite, linear_nodes, shift_bias, weight_of
from export.sites import LayerNames, Site, bias_add

if TYPE_CHECKING:
    import onnx_ir as ir

RULE = "center_attention"


def center_attention(
    model: ir.Model,
    layers: Sequence[LayerNames],
    sites: tuple[Site, ...],
    centers: Mapping[str, NDArray[np.float32]],
) -> Rewrite:
    """Fold the centers of k and v into the biases around attention, in place.

    Args:
        model: An FP32 model as `export_onnx` returns it; the function it computes stays the same.
        layers: As `layer_names` gives them.
        sites: All sites of the model.
        centers: Site name to its center, float32 [hidden], for k and v of every layer.
    """
    linears = linear_nodes(model, sites)
    refused, centered = {}, set[str]()
    for layer in layers:
        needed = (layer.key, layer.value, layer.output)
        bare = [module for module in needed if bias_add(linears[module]) is None]
        if bare:
            refused[layer.attention] = f"'{bare[0]}' has no bias to fold a center into"
            continue
        value_center = centers[layer.v_site].astype(np.float64)
        shifts: dict[str, NDArray[np.floating[Any]]] = {
            layer.key: -centers[layer.k_site],
            layer.value: -value_center,
            layer.output: value_center @ weight_of(linears[layer.output]).astype(np.float64),
        }
        for module, shift in shifts.items():
            shift_bias(model, linears[module], shift, f"{module}.centered_bias")
        centered |= {layer.k_site, layer.v_site, layer.context_site}
    return Rewrite(RULE, refused, frozenset(centered))
