"""What a rewrite rule did, and the graph edits that rules share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from export.constants import add_constant
from export.sites import Site, SiteKind, bias_add, locate_sites

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class Rewrite:
    """The outcome of one rule on one graph.

    Attributes:
        rule: Its name, as recipes spell it.
        refused: Where it did not: module path to the reason.
        centered: Sites that are now relative to their center.
        amax: Sites whose range the rule has changed otherwise, and what it is now.
    """

    rule: str
    refused: Mapping[str, str] = field(default_factory=dict)
    centered: frozenset[str] = frozenset()
    amax: Mapping[str, float] = field(default_factory=dict)


def linear_nodes(model: ir.Model, sites: tuple[Site, ...]) -> dict[str, ir.Node]:
    """The MatMul of every linear in the encoder, by module path."""
    weights = [site for site in sites if site.kind is SiteKind.LINEAR_WEIGHT]
    return {
        place.site.modules[0]: place.consumers[0][0]
        for place in locate_sites(model, weights).values()
    }


def weight_of(linear: ir.Node) -> NDArray[np.float32]:
    """The weight of a linear, [input channels, output channels]."""
    weight = linear.inputs[1]
    assert weight is not None
    assert weight.const_value is not None  # a weight is a site because it is constant
    return np.asarray(weight.const_value.numpy(), np.float32)


def new_constant(model: ir.Model, name: str, values: NDArray[np.floating[Any]]) -> ir.Value:
    """A float32 initializer of its own: the exporter lets equal constants share one."""
    import onnx_ir as ir

    return add_constant(model, name, ir.tensor(values.astype(np.float32)))


def replace_constant(
    model: ir.Model, node: ir.Node, index: int, name: str, values: NDArray[np.floating[Any]]
) -> None:
    """Give one input of a node other constant values, and drop the old constant where unused."""
    old = node.inputs[index]
    node.replace_input_with(index, new_constant(model, name, values))
    if old is not None and old.name is not None and not old.uses():
        model.graph.initializers.pop(old.name, None)


def shift_bias(
    model: ir.Model, linear: ir.Node, shift: NDArray[np.floating[Any]], name: str
) -> None:
    """Add to the bias of a linear that has one.

    Args:
        model: Holds the linear.
        linear: Its MatMul; `bias_add` must know its bias.
        shift: [output channels].
        name: Of the new bias.
    """
    found = bias_add(linear)
    assert found is not None  # the rule has asked
    add, index = found
    bias = add.inputs[index]
    assert bias is not None
    assert bias.const_value is not None
    replace_constant(model, add, index, name, bias.const_value.numpy().astype(np.float64) + shift)
