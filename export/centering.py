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

from export.errors import SiteError
from export.sites import AttentionNames, Site, SiteKind, locate_sites

if TYPE_CHECKING:
    import onnx_ir as ir


def center_attention(
    model: ir.Model,
    layers: Sequence[AttentionNames],
    sites: Sequence[Site],
    centers: Mapping[str, NDArray[np.float32]],
) -> None:
    """Fold the centers of k and v into the biases around attention, in place, ahead of Q/DQ.

    Args:
        model: An FP32 model as `export_onnx` returns it; the function it computes stays the same.
        layers: As `attention_names` gives them.
        sites: All sites of the model.
        centers: Site name to its center, float32 [hidden], for k, v and context of every layer.

    Raises:
        SiteError: A projection has no bias of its own to fold into.
    """
    weights = [site for site in sites if site.kind is SiteKind.LINEAR_WEIGHT]
    linears = {
        place.site.modules[0]: place.consumers[0][0]
        for place in locate_sites(model, weights).values()
    }
    for names in layers:
        output = linears[names.output_linear]
        weight = output.inputs[1]
        assert weight is not None
        assert weight.const_value is not None  # a weight is a site because it is constant
        value_center = centers[names.value].astype(np.float64)
        _shift_bias(model, linears[names.key_linear], -centers[names.key])
        _shift_bias(model, linears[names.value_linear], -value_center)
        _shift_bias(model, output, value_center @ weight.const_value.numpy().astype(np.float64))


def _shift_bias(model: ir.Model, linear: ir.Node, shift: NDArray[np.floating[Any]]) -> None:
    import onnx_ir as ir

    for use in linear.outputs[0].uses():
        bias = use.node.inputs[1 - use.idx] if use.node.op_type == "Add" else None
        if bias is None or bias.const_value is None:
            continue
        values = bias.const_value.numpy().astype(np.float64) + shift
        # A value of its own: the exporter lets equal biases share one.
        shifted = ir.Value(
            name=f"{linear.name}.centered_bias",
            shape=bias.shape,
            type=bias.type,
            const_value=ir.tensor(values.astype(np.float32)),
        )
        model.graph.register_initializer(shifted)
        use.node.replace_input_with(1 - use.idx, shifted)
        if not bias.uses() and bias.name is not None:
            model.graph.initializers.pop(bias.name, None)
        return
    raise SiteError(
        f"'{linear.name}' has no bias that centering could fold into",
        "set `center_attention: false` in the recipe",
    )
