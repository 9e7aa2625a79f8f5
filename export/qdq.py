"""Insert Q/DQ nodes into an exported graph, following a recipe and a calibration table.

Placement follows NVIDIA's MLPerf BERT and what TensorRT fuses: one Q/DQ for the input that query,
key and value share, weights as 8-bit constants straight into DequantizeLinear and MatMul, Q/DQ on
all four operands of attention or on none. Symmetric, zero point 0, standard ONNX operators.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from export.architectures import Architecture, get_architecture
from export.calibration_table import CalibrationTable
from export.codes import quantize
from export.constants import add_constant
from export.errors import ExportError
from export.onnx_export import METADATA_PREFIX
from export.precision import FloatType
from export.recipe import Granularity, QuantFormat, QuantRecipe, select_sites
from export.rules.center_attention import center_attention
from export.rules.rewrite import Rewrite
from export.rules.smooth_layernorm import smooth_layernorm
from export.sites import GraphSite, Site, SiteKind, encoder_sites, layer_names, locate_sites

if TYPE_CHECKING:
    import onnx_ir as ir

_LOG = logging.getLogger(__name__)

# TensorRT compiles these scales into the fused attention kernel, one kernel for each combination:
# 1.1 MB of plan a layer and bucket for BERT-base. Powers of two coincide, and cost FP8 nothing: its
# steps are relative, so only the subnormal range moves, by less than one binade.
_SHARED_KERNEL_KINDS = frozenset({SiteKind.ATTENTION_Q, SiteKind.ATTENTION_K, SiteKind.ATTENTION_V})

# Q/DQ pairs by the value and the scale they quantize: a residual shares that of the linear beside.
_Pairs = dict[tuple["ir.Value", float], "ir.Value"]

# Axes of a weight, as MatMul reads it.
_INPUT_CHANNELS, _OUTPUT_CHANNELS = 0, 1

# Softmax cannot leave [0, 1], so its range needs no data.
_SOFTMAX_AMAX = 1.0


def graph_sites(model: ir.Model) -> tuple[Site, ...]:
    """The sites of an exported model, enumerated from its own metadata.

    Raises:
        ExportError: The model was not exported by this toolchain.
    """
    return encoder_sites(*graph_encoder(model))


def graph_encoder(model: ir.Model) -> tuple[Architecture, int]:
    """Architecture and number of layers of an exported model, from its own metadata.

    Raises:
        ExportError: The model was not exported by this toolchain.
    """
    try:
        architecture = get_architecture(model.metadata_props[f"{METADATA_PREFIX}model_type"])
        return architecture, int(model.metadata_props[f"{METADATA_PREFIX}layers"])
    except KeyError as missing:
        raise ExportError(
            f"the ONNX model lacks the metadata {missing}", "export it with `deploy build`"
        ) from None


def insert_qdq(
    model: ir.Model, recipe: QuantRecipe, table: CalibrationTable, scale_type: FloatType
) -> None:
    """Quantize a graph in place.

    Args:
        model: An FP32 model as `export_onnx` returns it.
        recipe: Which sites, and how.
        table: Calibration of the same checkpoint.
        scale_type: The type that scales are rounded to: the one that the engine will carry. Weights
            are quantized with the rounded scales, so that a later cast changes nothing.

    Raises:
        RecipeError: The recipe's exclusions do not fit the model.
        SiteError: A site cannot be tied to the graph.
        CalibrationError: A site has no usable range.
    """
    every_site = graph_sites(model)
    sites = select_sites(recipe, every_site)
    rewrites = _rewrite(model, recipe, table, every_site, sites, scale_type)
    located = locate_sites(model, sites)
    pairs: _Pairs = {}
    for site in sites:
        place = located[site.name]
        amax = _amax(place, recipe, table, rewrites)
        scale = amax / recipe.format.max_value
        if recipe.format is QuantFormat.FP8 and site.kind in _SHARED_KERNEL_KINDS:
            scale = np.exp2(np.ceil(np.log2(scale)))
        scale = _rounded_scale(site, scale, scale_type)
        if site.kind is SiteKind.LINEAR_WEIGHT:
            _quantize_weight(model, place, scale, recipe.format)
        else:
            _quantize_activation(model, place, scale, recipe.format, pairs)
    _drop_unused_weights(model)


def _rewrite(
    model: ir.Model,
    recipe: QuantRecipe,
    table: CalibrationTable,
    sites: tuple[Site, ...],
    chosen: tuple[Site, ...],
    scale_type: FloatType,
) -> tuple[Rewrite, ...]:
    """Apply the rules that the recipe asks for to what it quantizes; log where one did not."""
    layers = layer_names(*graph_encoder(model))
    names = {site.name for site in chosen}
    rewrites: list[Rewrite] = []
    if recipe.center_attention:
        quantized = [layer for layer in layers if layer.v_site in names]
        rewrites.append(center_attention(model, quantized, sites, table.centers))
    if recipe.smoothquant is not None:
        rewrites.append(
            smooth_layernorm(
                model,
                layers,
                sites,
                {name: amax for name, amax in table.channel_amax.items() if name in names},
                recipe.smoothquant,
                scale_type,
            )
        )
    for rewrite in rewrites:
        for where, reason in rewrite.refused.items():
            _LOG.warning("%s does not apply to %s: %s", rewrite.rule, where, reason)
    return tuple(rewrites)


def _amax(
    place: GraphSite, recipe: QuantRecipe, table: CalibrationTable, rewrites: tuple[Rewrite, ...]
) -> NDArray[np.float64]:
    site = place.site
    how = recipe.kinds[site.kind]
    if site.kind is SiteKind.ATTENTION_P:
        return np.array(_SOFTMAX_AMAX)
    if site.kind is not SiteKind.LINEAR_WEIGHT:
        for rewrite in rewrites:
            if site.name in rewrite.amax:
                return np.array(rewrite.amax[site.name])
        centered = any(site.name in rewrite.centered for rewrite in rewrites)
        return np.array(table.amax(site.name, how.calibrator, recipe.format, centered))
    weight = np.abs(_weight(place))
    if how.granularity is Granularity.PER_TENSOR:
        return np.array(weight.max(), np.float64)
    # Of a channel of zeros too, whose scale is then raised to the smallest that there is: under a
    # larger one than the other channels' the codes of all would be multiplied towards overflow.
    amax: NDArray[np.float64] = weight.max(axis=_INPUT_CHANNELS).astype(np.float64)
    return amax


def _rounded_scale(
    site: Site, scale: NDArray[np.float64], scale_type: FloatType
) -> NDArray[np.float64]:
    rounded = scale.astype(scale_type.numpy).astype(np.float64)
    smallest = float(scale_type.smallest_normal)
    small = rounded < smallest
    if small.any():
        _LOG.info(
            "%s: %d of %d scales lie below %s's smallest normal number and are raised to %.3g",
            site.name,
            int(small.sum()),
            rounded.size,
            scale_type.value,
            smallest,
        )
        rounded = np.where(small, smallest, rounded)
    return rounded


def _weight(place: GraphSite) -> NDArray[np.float32]:
    constant = place.value.const_value
    assert constant is not None  # locate_sites took the weight because it is an initializer
    return np.asarray(constant.numpy(), np.float32)


def _quantize_weight(
    model: ir.Model, place: GraphSite, scale: NDArray[np.float64], fmt: QuantFormat
) -> None:
    import onnx_ir as ir

    name = place.site.name
    codes = quantize(_weight(place), scale, fmt)
    attributes = [ir.AttrInt64("axis", _OUTPUT_CHANNELS)] if scale.ndim else []
    for node, index in place.consumers:
        dequantize = ir.Node(
            "",
            "DequantizeLinear",
            [
                _constant(model, f"{name}.quantized", ir.tensor(codes)),
                _constant(model, f"{name}.scale", ir.tensor(scale.astype(np.float32))),
            ],
            attributes,
            name=f"{name}.DequantizeLinear",
        )
        _connect(dequantize, place.value, f"{name}.dequantized")
        model.graph.insert_before(node, dequantize)
        node.replace_input_with(index, dequantize.outputs[0])


def _quantize_activation(
    model: ir.Model,
    place: GraphSite,
    scale: NDArray[np.float64],
    fmt: QuantFormat,
    pairs: _Pairs,
) -> None:
    key = (place.value, float(scale))
    if key not in pairs:
        pairs[key] = _insert_pair(model, place, scale, fmt)
    for node, index in place.consumers:
        node.replace_input_with(index, pairs[key])


def _insert_pair(
    model: ir.Model, place: GraphSite, scale: NDArray[np.float64], fmt: QuantFormat
) -> ir.Value:
    """Put Q and DQ behind a tensor's producer, and return what DQ computes."""
    import ml_dtypes
    import onnx_ir as ir

    name = place.site.name
    code_type = np.int8 if fmt is QuantFormat.INT8 else ml_dtypes.float8_e4m3fn
    scale_value = _constant(model, f"{name}.scale", ir.tensor(scale.astype(np.float32)))
    zero_point = _constant(
        model, f"zero_point.{fmt.value}", ir.tensor(np.zeros((), np.int8).astype(code_type))
    )
    quantize = ir.Node(
        "", "QuantizeLinear", [place.value, scale_value, zero_point], name=f"{name}.QuantizeLinear"
    )
    quantize.outputs[0].name = f"{name}.quantized"
    dequantize = ir.Node(
        "",
        "DequantizeLinear",
        [quantize.outputs[0], scale_value, zero_point],
        name=f"{name}.DequantizeLinear",
    )
    _connect(dequantize, place.value, f"{name}.dequantized")
    producer = place.value.producer()
    assert producer is not None  # every activation site is computed by a node
    model.graph.insert_after(producer, [quantize, dequantize])
    return dequantize.outputs[0]


def _connect(dequantize: ir.Node, original: ir.Value, name: str) -> None:
    output = dequantize.outputs[0]
    output.name, output.shape, output.type = name, original.shape, original.type


def _constant(model: ir.Model, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    """A constant by its name: the one that is there, or a new one."""
    existing = model.graph.initializers.get(name)
    return add_constant(model, name, tensor) if existing is None else existing


def _drop_unused_weights(model: ir.Model) -> None:
    for name in [name for name, value in model.graph.initializers.items() if not value.uses()]:
        del model.graph.initializers[name]
