"""SmoothQuant: move a LayerNorm output's outlier channels into the weights that read it.

W x = (W diag(s)) (x / s), with s_j = max|x_j|^a / max|W_j|^(1 - a) for each channel j (Xiao et al.
2023, equation 4). The division is element-wise between LayerNorm and Q, where a builder fuses
both; the residual branch keeps x. Only LayerNorm outputs: a GELU's channels that calibration hardly
saw would be amplified without bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from export.precision import FloatType
from export.rules.rewrite import Rewrite, linear_nodes, new_constant, replace_constant, weight_of
from export.sites import LayerNames, Site

if TYPE_CHECKING:
    import onnx_ir as ir

RULE = "smoothquant"


def smooth_layernorm(
    model: ir.Model,
    layers: Sequence[LayerNames],
    sites: tuple[Site, ...],
    channel_amax: Mapping[str, NDArray[np.float32]],
    alpha: float,
    scale_type: FloatType,
) -> Rewrite:
    """Divide what the Q/K/V and the first feed-forward linears read, and multiply their weights.

    Args:
        model: An FP32 model as `export_onnx` returns it; the function it computes stays the same.
        layers: As `layer_names` gives them.
        sites: All sites of the model.
        channel_amax: Site name to the largest magnitude in each channel, float32 [hidden]; sites
            that are absent are left alone.
        alpha: Migration strength, between 0 and 1: how much of the difficulty moves to the weights.
        scale_type: The type that the engine carries the factors in: they are rounded to it before
            the weights are multiplied, so that a later cast changes nothing.
    """
    import onnx_ir as ir

    linears = linear_nodes(model, sites)
    refused, ranges = {}, {}
    for layer in layers:
        for site, modules in layer.normalized_sites.items():
            if site not in channel_amax:
                continue
            nodes = [linears[module] for module in modules]
            if len({node.inputs[0] for node in nodes}) != 1:
                refused[site] = "the linears that read it read different tensors"
                continue
            value = nodes[0].inputs[0]
            assert value is not None  # a MatMul has two inputs
            producer = value.producer()
            if producer is None or producer.op_type != "LayerNormalization":
                refused[site] = "it is no LayerNorm's output"
                continue
            amax = channel_amax[site].astype(np.float64)
            if not amax.any():
                refused[site] = "it carried only zeros during calibration"
                continue
            inverse = _inverse_factors(amax, [weight_of(node) for node in nodes], alpha, scale_type)
            multiply = ir.Node(
                "",
                "Mul",
                [value, new_constant(model, f"{site}.smoothing", inverse)],
                name=f"{site}.Mul",
            )
            result = multiply.outputs[0]
            result.name, result.shape, result.type = f"{site}.smoothed", value.shape, value.type
            model.graph.insert_before(nodes[0], multiply)
            for node, module in zip(nodes, modules, strict=True):
                node.replace_input_with(0, result)
                weight = weight_of(node).astype(np.float64) / inverse[:, None]
                replace_constant(model, node, 1, f"{module}.smoothed_weight", weight)
            ranges[site] = float((amax * inverse).max())
    return Rewrite(RULE, refused, amax=ranges)


def _inverse_factors(
    amax: NDArray[np.float64],
    weights: Sequence[NDArray[np.float32]],
    alpha: float,
    scale_type: FloatType,
) -> NDArray[np.float64]:
    """1 / s for each channel, rounded; 1 for a channel that is zero on either side."""
    weight_amax = np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0)
    live = (amax > 0) & (weight_amax > 0)
    inverse = np.ones_like(amax)
    inverse[live] = weight_amax[live] ** (1 - alpha) / amax[live] ** alpha
    # A factor that under- or overflows the type would lose its channel; s stays exact at the limit.
    limited = np.clip(inverse, scale_type.smallest_normal, scale_type.max_value)
    return limited.astype(scale_type.numpy).astype(np.float64)
