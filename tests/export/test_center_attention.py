"""Centering k and v: the same function in FP32, and smaller tensors to quantize."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
import torch
from conftest import Exported, histogram_of, random_rows
from test_qdq import run, tokens

from export.attention_centers import heads_that_gain
from export.precision import FloatType
from export.qdq import graph_sites, insert_qdq
from export.recipe import PRESETS, KindRecipe, QuantFormat, QuantRecipe
from export.rules.center_attention import center_attention
from export.rules.rewrite import Rewrite
from export.sites import ATTENTION_KINDS, LayerNames, layer_names, locate_sites
from export.verify import relative_error


def names_of(exported: Exported) -> tuple[LayerNames, ...]:
    return layer_names(exported.checkpoint.architecture, exported.checkpoint.layers)


def moved_sites(names: LayerNames) -> tuple[str, str, str]:
    return (names.k_site, names.v_site, names.context_site)


def centered_graph(exported: Exported, centers=None) -> ir.Model:
    model = exported.graph()
    center_attention(
        model, names_of(exported), graph_sites(model), centers or exported.table.centers
    )
    return model


def site_values(model: ir.Model, names, inputs) -> list[np.ndarray]:
    places = locate_sites(model, graph_sites(model))
    return run(model, inputs, [places[name].value.name for name in names])


def test_the_function_stays_the_same_for_any_center(exported):
    """For centers far larger than the data's, and with padded rows."""
    rng = np.random.default_rng(0)
    centers = {
        name: rng.normal(0, 3, center.shape).astype(np.float32)
        for name, center in exported.table.centers.items()
    }
    for names in names_of(exported):
        centers[names.context_site] = centers[names.v_site]
    inputs = tokens(3)
    (plain,) = run(exported.graph(), inputs)
    (centered,) = run(centered_graph(exported, centers), inputs)
    assert relative_error(centered, plain) <= 1e-5


def test_each_site_moves_by_its_center(exported):
    first = names_of(exported)[0]
    inputs = tokens(3)
    before = site_values(exported.graph(), moved_sites(first), inputs)
    after = site_values(centered_graph(exported), moved_sites(first), inputs)
    for name, plain, moved in zip(moved_sites(first), before, after, strict=True):
        center = exported.table.centers[name]
        if plain.ndim == 4:
            center = center.reshape(plain.shape[1], -1)  # [heads, head_dim]
            # v is [batch, heads, sequence, head_dim], k is transposed for QK^T.
            center = center[:, :, None] if name == first.k_site else center[:, None, :]
        np.testing.assert_allclose(moved, plain - center, atol=1e-5, err_msg=name)


def test_what_calibration_counted_is_what_the_centered_graph_carries(exported):
    """The centered range of each site, against onnxruntime running the centered graph."""
    model = centered_graph(exported)
    sites = [name for names in names_of(exported) for name in moved_sites(names)]
    seen = dict.fromkeys(sites, 0.0)
    for ids in random_rows(1).features.input_ids:
        inputs = {"input_ids": ids[None], "attention_mask": np.ones((1, len(ids)), np.int64)}
        inputs["token_type_ids"] = np.zeros_like(inputs["input_ids"])
        for name, value in zip(sites, site_values(model, sites, inputs), strict=True):
            seen[name] = max(seen[name], float(np.abs(value).max()))
    for name in sites:
        assert exported.table.centered[name].amax == pytest.approx(seen[name], rel=1e-4), name
        assert exported.table.centered[name].amax != exported.table.sites[name].amax


def test_centering_saves_what_an_int8_softmax_drops(exported):
    """Long rows of near-uniform attention: most probabilities are below half a step of 1/127.

    v's mean is made large, as biases of trained models are, so that what is dropped matters.
    """
    model = exported.graph()
    rng = np.random.default_rng(0)
    for names in names_of(exported):
        node = next(n for n in model.graph if n.name == names.value)
        bias = next(iter(node.outputs[0].uses())).node.inputs
        value = next(v for v in bias if v.const_value is not None)
        value.const_value = ir.tensor(rng.normal(0, 2, value.shape[0]).astype(np.float32))
    inputs = tokens(7, (2, 128))
    (plain,) = run(model, inputs)
    centers, ranges, centered = {}, {}, {}
    for names in names_of(exported):
        roles = [f"{names.attention}.q", *moved_sites(names)]
        q, k, v, context = site_values(model, roles, inputs)
        centers[names.k_site] = np.zeros_like(exported.table.centers[names.k_site])
        centers[names.v_site] = centers[names.context_site] = v.mean(axis=(0, 2)).ravel()
        moved = v - v.mean(axis=(0, 2), keepdims=True)
        ranges |= {n: histogram_of(x) for n, x in zip(roles, (q, k, v, context), strict=True)}
        centered |= {
            names.k_site: histogram_of(k),
            names.v_site: histogram_of(moved),
            names.context_site: histogram_of(context - centers[names.context_site]),
        }
    table = replace(exported.table, sites=ranges, centers=centers, centered=centered)
    attention = {kind: KindRecipe() for kind in ATTENTION_KINDS}
    errors = {}
    for center in (False, True):
        recipe = QuantRecipe("attention", QuantFormat.INT8, attention, center_attention=center)
        quantized = ir.from_proto(ir.to_proto(model))
        insert_qdq(quantized, recipe, table, FloatType.FP16)
        errors[center] = relative_error(run(quantized, inputs)[0], plain)
    assert errors[True] < errors[False] / 2, errors


def test_a_projection_without_a_bias_is_left_as_it_is(exported):
    model = exported.graph()
    first, second = names_of(exported)
    node = next(n for n in model.graph if n.name == first.key)
    add = next(iter(node.outputs[0].uses())).node
    reshape, index = next((use.node, use.idx) for use in add.outputs[0].uses())
    reshape.replace_input_with(index, node.outputs[0])
    model.graph.remove(add, safe=True)
    (plain,) = run(model, tokens(3))
    outcome = center_attention(model, (first, second), graph_sites(model), exported.table.centers)
    assert outcome == Rewrite(
        "center_attention",
        refused={first.attention: f"'{first.key}' has no bias to fold a center into"},
        centered=frozenset(moved_sites(second)),
    )
    assert relative_error(run(model, tokens(3))[0], plain) <= 1e-5


def test_a_recipe_says_where_a_rule_did_not_apply(exported, warnings_of):
    model = exported.graph()
    first = names_of(exported)[0]
    node = next(n for n in model.graph if n.name == first.key)
    add = next(iter(node.outputs[0].uses())).node
    reshape, index = next((use.node, use.idx) for use in add.outputs[0].uses())
    reshape.replace_input_with(index, node.outputs[0])
    model.graph.remove(add, safe=True)
    insert_qdq(model, PRESETS["int8"], exported.table, FloatType.FP16)
    (warning,) = warnings_of("export.qdq")
    assert warning.startswith(f"center_attention does not apply to {first.attention}")
    assert first.key in warning


def heads(rng: np.random.Generator, sequence: int) -> tuple[torch.Tensor, ...]:
    """q, k, v and center: head 0 spreads evenly, head 1 parks on token 0, whose v is 0."""
    q, k = np.zeros((2, 1, 2, sequence, 16), np.float32)
    v = rng.normal(1, 0.3, (1, 2, sequence, 16)).astype(np.float32)
    q[:, 1, :, 0] = 12
    k[:, 1, 0, 0] = 1
    v[:, 1, 0] = 0
    tensors = tuple(torch.from_numpy(each) for each in (q, k, v))
    return (*tensors, tensors[2].mean(dim=(0, 2)))


def test_only_heads_whose_softmax_loses_are_centered():
    q, k, v, center = heads(np.random.default_rng(0), 256)
    gains = heads_that_gain(q, k, v, center, torch.ones(1, 256, dtype=torch.bool))
    assert gains.tolist() == [True, False]


def test_padding_decides_nothing_about_centers():
    """Behind 256 real tokens, junk that would turn both verdicts around."""
    q, k, v, center = heads(np.random.default_rng(0), 256)
    junk = torch.full((1, 2, 64, 16), 50.0)
    mask = torch.cat([torch.ones(1, 256), torch.zeros(1, 64)], dim=1).bool()
    longer = [torch.cat([each, junk], dim=2) for each in (q, k)]
    gains = heads_that_gain(*longer, torch.cat([v, junk * 0], dim=2), center, mask)
    assert gains.tolist() == [True, False]
