"""SmoothQuant on LayerNorm outputs: the same function, and no outlier channels to quantize."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from conftest import Exported
from test_qdq import run, tokens

from export.errors import CalibrationError
from export.precision import FloatType
from export.qdq import graph_sites, insert_qdq
from export.recipe import PRESETS
from export.rules.rewrite import Rewrite
from export.rules.smooth_layernorm import smooth_layernorm
from export.sites import LayerNames, layer_names, locate_sites
from export.verify import relative_error


def names_of(exported: Exported) -> tuple[LayerNames, ...]:
    return layer_names(exported.checkpoint.architecture, exported.checkpoint.layers)


def smooth(model: ir.Model, exported: Exported, alpha: float = 0.5, **ranges) -> Rewrite:
    return smooth_layernorm(
        model,
        names_of(exported),
        graph_sites(model),
        {**exported.table.channel_amax, **ranges},
        alpha,
        FloatType.FP16,
    )


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.9])
def test_the_function_stays_the_same(exported, alpha):
    model = exported.graph()
    outcome = smooth(model, exported, alpha)
    assert len(outcome.amax) == 2 * exported.checkpoint.layers
    assert not outcome.refused
    (plain,) = run(exported.graph(), tokens(3))
    assert relative_error(run(model, tokens(3))[0], plain) <= 1e-5


def test_activations_and_weights_of_a_channel_get_equally_large(exported):
    """At 0.5, max|x_j / s_j| = max|W_j s_j|: the paper's reason for 0.5."""
    model = exported.graph()
    smooth(model, exported)
    places = locate_sites(model, graph_sites(model))
    for layer in names_of(exported):
        for site, modules in layer.normalized_sites.items():
            factors = model.graph.initializers[f"{site}.smoothing"].const_value.numpy()
            activation = exported.table.channel_amax[site] * factors
            weight = np.max(
                [
                    np.abs(places[f"{module}.weight"].value.const_value.numpy()).max(axis=1)
                    for module in modules
                ],
                axis=0,
            )
            # Factors are rounded to FP16: 11 bits, in both.
            np.testing.assert_allclose(activation, weight, rtol=2e-3)


def test_the_range_is_that_of_the_smoothed_tensor(exported):
    model = exported.graph()
    outcome = smooth(model, exported)
    sites = list(outcome.amax)
    places = locate_sites(model, graph_sites(model))
    seen = run(model, tokens(3), [places[site].value.name for site in sites])
    plain = run(
        exported.graph(),
        tokens(3),
        [
            locate_sites(exported.graph(), graph_sites(exported.graph()))[s].value.name
            for s in sites
        ],
    )
    for site, smoothed, before in zip(sites, seen, plain, strict=True):
        amax = np.abs(before).reshape(-1, before.shape[-1]).max(axis=0)
        factors = model.graph.initializers[f"{site}.smoothing"].const_value.numpy()
        assert np.abs(smoothed).max() == pytest.approx((amax * factors).max(), rel=1e-5)
        assert outcome.amax[site] < exported.table.sites[site].amax


def test_int8_gains_by_it_where_channels_are_outliers(exported):
    """The fixture's LayerNorm weights hold outlier channels; everything else is equal."""
    (plain,) = run(exported.graph(), tokens(3))
    errors = {}
    for alpha in (None, 0.5):
        model = exported.graph()
        recipe = replace(PRESETS["int8-smoothquant"], smoothquant=alpha)
        insert_qdq(model, recipe, exported.table, FloatType.FP16)
        errors[alpha] = relative_error(run(model, tokens(3))[0], plain)
    assert errors[0.5] < errors[None], errors


def test_a_dead_channel_keeps_its_place(exported):
    site = next(iter(names_of(exported)[0].normalized_sites))
    amax = exported.table.channel_amax[site].copy()
    amax[3] = 0
    model = exported.graph()
    smooth(model, exported, **{site: amax})
    factors = model.graph.initializers[f"{site}.smoothing"].const_value.numpy()
    assert factors[3] == 1
    assert np.isfinite(factors).all()
    (plain,) = run(exported.graph(), tokens(3))
    assert relative_error(run(model, tokens(3))[0], plain) <= 1e-5


def test_linears_of_different_tensors_are_refused(exported):
    model = exported.graph()
    layer = names_of(exported)[0]
    query = next(node for node in model.graph if node.name == layer.query)
    copy = ir.Node("", "Identity", [query.inputs[0]])
    copy.outputs[0].name = "copy"
    copy.outputs[0].dtype, copy.outputs[0].shape = query.inputs[0].dtype, query.inputs[0].shape
    model.graph.insert_before(query, copy)
    query.replace_input_with(0, copy.outputs[0])
    outcome = smooth(model, exported)
    site = f"{layer.attention}.input"
    assert outcome.refused == {site: "the linears that read it read different tensors"}
    assert site not in outcome.amax


def test_what_is_not_quantized_is_left_alone(exported):
    """`deploy tune` counts on it: a unit back in FP16 is the checkpoint's own."""
    model = exported.graph()
    layer = names_of(exported)[0]
    recipe = replace(
        PRESETS["int8"],
        exclude=(
            f"{layer.attention}.input",
            *(f"{module}.weight" for module in (layer.query, layer.key, layer.value)),
            f"{layer.attention}.[qkpv]",
        ),
    )
    insert_qdq(model, recipe, exported.table, FloatType.FP16)
    by_name = {node.name: node for node in model.graph}
    plain = {node.name: node for node in exported.graph().graph}
    for module in (layer.query, layer.key, layer.value):
        assert by_name[module].inputs[0].producer().op_type == "LayerNormalization"
        weights = (graph[module].inputs[1].const_value.numpy() for graph in (by_name, plain))
        np.testing.assert_array_equal(*weights)
    assert f"{layer.ffn_in}.input.smoothing" in model.graph.initializers


def test_a_tensor_of_zeros_is_an_error_and_never_a_scale(exported):
    site = next(iter(names_of(exported)[0].normalized_sites))
    zeros = np.zeros_like(exported.table.channel_amax[site])
    empty = replace(exported.table.sites[site], amax=0.0, upper=0.0)
    table = replace(
        exported.table,
        sites={**exported.table.sites, site: empty},
        channel_amax={**exported.table.channel_amax, site: zeros},
    )
    with pytest.raises(CalibrationError, match="only zeros"):
        insert_qdq(exported.graph(), PRESETS["int8"], table, FloatType.FP16)
