"""Centering k and v: the same function in FP32, and smaller tensors to quantize."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
import torch
from conftest import Exported, random_rows
from export.centering import center_attention
from test_qdq import run, tokens

from export.errors import SiteError
from export.histogram import RangeHistogram
from export.precision import FloatType
from export.qdq import graph_sites, insert_qdq
from export.recipe import PRESETS, KindRecipe, QuantFormat, QuantRecipe
from export.sites import ATTENTION_KINDS, attention_names, locate_sites
from export.verify import relative_error


def names_of(exported: Exported):
    return attention_names(exported.checkpoint.architecture, exported.checkpoint.layers)


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
        centers[names.context] = centers[names.value]
    inputs = tokens(3)
    (plain,) = run(exported.graph(), inputs)
    (centered,) = run(centered_graph(exported, centers), inputs)
    assert relative_error(centered, plain) <= 1e-5


def test_each_site_moves_by_its_center(exported):
    first = names_of(exported)[0]
    inputs = tokens(3)
    before = site_values(exported.graph(), first.sites, inputs)
    after = site_values(centered_graph(exported), first.sites, inputs)
    for name, plain, moved in zip(first.sites, before, after, strict=True):
        center = exported.table.centers[name]
        if plain.ndim == 4:
            center = center.reshape(plain.shape[1], -1)  # [heads, head_dim]
            # v is [batch, heads, sequence, head_dim], k is transposed for QK^T.
            center = center[:, :, None] if name == first.key else center[:, None, :]
        np.testing.assert_allclose(moved, plain - center, atol=1e-5, err_msg=name)


def test_what_calibration_counted_is_what_the_centered_graph_carries(exported):
    """The centered range of each site, against onnxruntime running the centered graph."""
    model = centered_graph(exported)
    sites = [name for names in names_of(exported) for name in names.sites]
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
        node = next(n for n in model.graph if n.name == names.value_linear)
        bias = next(iter(node.outputs[0].uses())).node.inputs
        value = next(v for v in bias if v.const_value is not None)
        value.const_value = ir.tensor(rng.normal(0, 2, value.shape[0]).astype(np.float32))
    inputs = tokens(7, (2, 128))
    (plain,) = run(model, inputs)
    centers, ranges, centered = {}, {}, {}
    for names in names_of(exported):
        roles = [names.key[:-1] + "q", *names.sites]
        q, k, v, context = site_values(model, roles, inputs)
        centers[names.key] = np.zeros_like(exported.table.centers[names.key])
        centers[names.value] = centers[names.context] = v.mean(axis=(0, 2)).ravel()
        moved = v - v.mean(axis=(0, 2), keepdims=True)
        ranges |= {n: histogram_of(x) for n, x in zip(roles, (q, k, v, context), strict=True)}
        centered |= {names.key: histogram_of(k), names.value: histogram_of(moved)}
    table = replace(exported.table, sites=ranges, centers=centers, centered=centered)
    attention = {kind: KindRecipe() for kind in ATTENTION_KINDS}
    errors = {}
    for center in (False, True):
        recipe = QuantRecipe("attention", QuantFormat.INT8, attention, center_attention=center)
        quantized = ir.from_proto(ir.to_proto(model))
        insert_qdq(quantized, recipe, table, FloatType.FP16)
        errors[center] = relative_error(run(quantized, inputs)[0], plain)
    assert errors[True] < errors[False] / 2, errors


def histogram_of(values: np.ndarray) -> RangeHistogram:
    histogram = RangeHistogram()
    histogram.update(torch.from_numpy(values))
    return histogram


def test_a_projection_without_a_bias_is_refused(exported):
    model = exported.graph()
    key = names_of(exported)[0].key_linear
    node = next(n for n in model.graph if n.name == key)
    add = next(iter(node.outputs[0].uses())).node
    reshape, index = next((use.node, use.idx) for use in add.outputs[0].uses())
    reshape.replace_input_with(index, node.outputs[0])
    model.graph.remove(add, safe=True)
    with pytest.raises(SiteError, match=r"key.*no bias"):
        insert_qdq(model, PRESETS["int8"], exported.table, FloatType.FP16)
