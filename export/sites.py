"""Quantizable sites: the tensors a recipe may quantize, by name, and where the graph has them.

Sites are enumerated from the architecture alone, so that the torch model and the ONNX graph are
both checked against the same list: a site that either side lacks is an error, never a skip.
Nodes are tied to modules by the exporter's `name_scopes` only. Initializer names say nothing,
because the exporter renames transposed weights and merges equal tensors.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from export.architectures import Architecture
from export.errors import SiteError

if TYPE_CHECKING:
    import onnx_ir as ir

# The two MatMuls of an attention: QK^T, and the softmax output times V.
SCORES = "scores"
CONTEXT = "context"

# Where the exporter notes the torch modules that a node came from.
SCOPES_KEY = "pkg.torch.onnx.name_scopes"


class SiteKind(str, Enum):
    """What a site's tensor is to the network; a recipe speaks about kinds."""

    LINEAR_INPUT = "linear_input"
    LINEAR_WEIGHT = "linear_weight"
    ATTENTION_Q = "attention_q"
    ATTENTION_K = "attention_k"
    ATTENTION_P = "attention_p"
    ATTENTION_V = "attention_v"
    RESIDUAL_INPUT = "residual_input"
    GELU_INPUT = "gelu_input"


ATTENTION_KINDS = frozenset(
    {SiteKind.ATTENTION_Q, SiteKind.ATTENTION_K, SiteKind.ATTENTION_P, SiteKind.ATTENTION_V}
)

_ATTENTION_ROLES = (
    ("q", SiteKind.ATTENTION_Q),
    ("k", SiteKind.ATTENTION_K),
    ("p", SiteKind.ATTENTION_P),
    ("v", SiteKind.ATTENTION_V),
)


@dataclass(frozen=True)
class Site:
    """One quantizable tensor of the encoder.

    Attributes:
        name: Unique; the module path and the tensor's role, for example
            `bert.encoder.layer.0.attention.self.input` or `….attention.self.query.weight`.
        kind: What the tensor is.
        layer: Index of the encoder layer.
        modules: Torch module paths that consume the tensor (three for the input that query, key
            and value share).
        quantizer: Path of the ModelOpt quantizer that sees the tensor. A residual is the very
            tensor that the linear beside it reads, and shares that one's.
    """

    name: str
    kind: SiteKind
    layer: int
    modules: tuple[str, ...]
    quantizer: str


@dataclass(frozen=True)
class GraphSite:
    """A site tied to the graph.

    Attributes:
        site: The site.
        value: The tensor as the graph computes or stores it.
        consumers: `(node, input index)` pairs that must read the quantized tensor.
    """

    site: Site
    value: ir.Value
    consumers: tuple[tuple[ir.Node, int], ...]


def encoder_sites(architecture: Architecture, layers: int) -> tuple[Site, ...]:
    """Enumerate every site of an encoder with `layers` layers, in order of execution."""
    return tuple(site for index in range(layers) for site in _layer_sites(architecture, index))


def _layer_sites(architecture: Architecture, layer: int) -> Iterator[Site]:
    prefix = architecture.layer.format(layer)
    attention = f"{prefix}.{architecture.attention}"
    query, key, value = (
        f"{prefix}.{name}" for name in (architecture.query, architecture.key, architecture.value)
    )
    yield Site(
        name=f"{attention}.input",
        kind=SiteKind.LINEAR_INPUT,
        layer=layer,
        modules=(query, key, value),
        quantizer=f"{query}.input_quantizer",
    )
    for module in (query, key, value):
        yield _weight_site(module, layer)
    for role, kind in _ATTENTION_ROLES:
        yield Site(
            f"{attention}.{role}", kind, layer, (attention,), f"{attention}.{role}_bmm_quantizer"
        )
    output, ffn_in, ffn_out = (
        f"{prefix}.{name}"
        for name in (architecture.attention_output, architecture.ffn_in, architecture.ffn_out)
    )
    yield from _linear_sites(output, layer)
    yield _residual_site(output, layer, f"{query}.input_quantizer")
    yield from _linear_sites(ffn_in, layer)
    yield Site(
        name=f"{ffn_in}.output",
        kind=SiteKind.GELU_INPUT,
        layer=layer,
        modules=(ffn_in,),
        quantizer=f"{ffn_in}.output_quantizer",
    )
    yield from _linear_sites(ffn_out, layer)
    yield _residual_site(ffn_out, layer, f"{ffn_in}.input_quantizer")


def _linear_sites(module: str, layer: int) -> Iterator[Site]:
    yield Site(
        name=f"{module}.input",
        kind=SiteKind.LINEAR_INPUT,
        layer=layer,
        modules=(module,),
        quantizer=f"{module}.input_quantizer",
    )
    yield _weight_site(module, layer)


def _residual_site(module: str, layer: int, quantizer: str) -> Site:
    return Site(f"{module}.residual", SiteKind.RESIDUAL_INPUT, layer, (module,), quantizer)


def _weight_site(module: str, layer: int) -> Site:
    return Site(
        name=f"{module}.weight",
        kind=SiteKind.LINEAR_WEIGHT,
        layer=layer,
        modules=(module,),
        quantizer=f"{module}.weight_quantizer",
    )


@dataclass(frozen=True)
class LayerNames:
    """Names of the sites and linears that the rewrite rules of one layer speak of.

    Attributes:
        attention: Module path of the attention.
        query: Module path of the query projection.
        key: Of the key projection.
        value: Of the value projection.
        output: Of the projection after attention.
        ffn_in: Of the first feed-forward linear.
    """

    attention: str
    query: str
    key: str
    value: str
    output: str
    ffn_in: str

    @property
    def k_site(self) -> str:
        """Site of k."""
        return f"{self.attention}.k"

    @property
    def v_site(self) -> str:
        """Site of v."""
        return f"{self.attention}.v"

    @property
    def context_site(self) -> str:
        """Site of PV, which the projection after attention reads."""
        return f"{self.output}.input"

    @property
    def normalized_sites(self) -> dict[str, tuple[str, ...]]:
        """Sites of LayerNorm outputs, and the linears that read each."""
        return {
            f"{self.attention}.input": (self.query, self.key, self.value),
            f"{self.ffn_in}.input": (self.ffn_in,),
        }


def layer_names(architecture: Architecture, layers: int) -> tuple[LayerNames, ...]:
    """The names of every layer, in order."""
    names = []
    for index in range(layers):
        layer = architecture.layer.format(index)
        names.append(
            LayerNames(
                attention=f"{layer}.{architecture.attention}",
                query=f"{layer}.{architecture.query}",
                key=f"{layer}.{architecture.key}",
                value=f"{layer}.{architecture.value}",
                output=f"{layer}.{architecture.attention_output}",
                ffn_in=f"{layer}.{architecture.ffn_in}",
            )
        )
    return tuple(names)


def locate_sites(model: ir.Model, sites: Iterable[Site]) -> dict[str, GraphSite]:
    """Tie every site to the graph.

    Args:
        model: An ONNX model exported by `export.onnx_export`, not yet quantized.
        sites: The sites to find, as `encoder_sites` enumerates them.

    Returns:
        Site name to its place in the graph.

    Raises:
        SiteError: A site has no, or more than one, place in the graph; nothing is skipped.
    """
    matmuls: dict[str, list[ir.Node]] = defaultdict(list)
    for node in model.graph:
        if node.op_type == "MatMul":
            matmuls[module_path(node)].append(node)
    return {site.name: _locate(site, matmuls) for site in sites}


def name_matmuls(model: ir.Model, sites: Iterable[Site]) -> None:
    """Name every encoder MatMul after its module, in place.

    Engine layers carry the names of the ONNX nodes they were fused from, so a layer report then
    speaks of `bert.encoder.layer.0.intermediate.dense` instead of `node_MatMul_54`. Linears take
    the module's path; an attention's two MatMuls take `<path>.scores` and `<path>.context`.
    """
    for place in locate_sites(model, sites).values():
        kind = place.site.kind
        if kind is SiteKind.LINEAR_INPUT:
            for (node, _), module in zip(place.consumers, place.site.modules, strict=True):
                node.name = module
        elif kind in {SiteKind.ATTENTION_Q, SiteKind.ATTENTION_P}:
            role = SCORES if kind is SiteKind.ATTENTION_Q else CONTEXT
            place.consumers[0][0].name = f"{place.site.modules[0]}.{role}"


def module_path(node: ir.Node) -> str:
    """Path of the torch module that a node was exported from, "" where the exporter kept none."""
    # A Python list literal: every module on the way down, then the name of the torch call.
    scopes = ast.literal_eval(node.metadata_props.get(SCOPES_KEY, "[]"))
    return str(scopes[-2]) if len(scopes) >= 2 else ""


def _locate(site: Site, matmuls: Mapping[str, list[ir.Node]]) -> GraphSite:
    if site.kind in ATTENTION_KINDS:
        scores, context = _attention_matmuls(site, matmuls[site.modules[0]])
        node, index = {
            SiteKind.ATTENTION_Q: (scores, 0),
            SiteKind.ATTENTION_K: (scores, 1),
            SiteKind.ATTENTION_P: (context, 0),
            SiteKind.ATTENTION_V: (context, 1),
        }[site.kind]
        return GraphSite(site, _input(node, index, site), ((node, index),))
    nodes = [_linear(site, module, matmuls[module]) for module in site.modules]
    if site.kind is SiteKind.GELU_INPUT:
        value = _biased(nodes[0])
        return GraphSite(site, value, tuple((use.node, use.idx) for use in value.uses()))
    if site.kind is SiteKind.RESIDUAL_INPUT:
        add, index = _residual(nodes[0], site)
        return GraphSite(site, _input(add, index, site), ((add, index),))
    if site.kind is SiteKind.LINEAR_WEIGHT:
        return GraphSite(site, _input(nodes[0], 1, site), ((nodes[0], 1),))
    values = {_input(node, 0, site) for node in nodes}
    if len(values) != 1:
        raise _untied(site, "its consumers read different tensors")
    return GraphSite(site, values.pop(), tuple((node, 0) for node in nodes))


def _linear(site: Site, module: str, nodes: list[ir.Node]) -> ir.Node:
    linears = [node for node in nodes if _input(node, 1, site).is_initializer()]
    if len(linears) != 1:
        raise _untied(site, f"module '{module}' has {len(linears)} MatMuls with a constant weight")
    return linears[0]


def _biased(linear: ir.Node) -> ir.Value:
    """A linear's result: what its MatMul computes, with the bias where it has one."""
    add = bias_add(linear)
    return linear.outputs[0] if add is None else add[0].outputs[0]


def bias_add(linear: ir.Node) -> tuple[ir.Node, int] | None:
    """The Add of a linear's bias and the index of the bias in it; None for a linear without."""
    for use in linear.outputs[0].uses():
        bias = use.node.inputs[1 - use.idx] if use.node.op_type == "Add" else None
        if bias is not None and bias.const_value is not None:
            return use.node, 1 - use.idx
    return None


def _residual(linear: ir.Node, site: Site) -> tuple[ir.Node, int]:
    """The Add behind a linear, and the index of the branch in it that skips the linear."""
    adds = [use for use in _biased(linear).uses() if use.node.op_type == "Add"]
    if len(adds) != 1:
        raise _untied(site, f"{len(adds)} residual Adds follow its linear")
    return adds[0].node, 1 - adds[0].idx


def _attention_matmuls(site: Site, nodes: list[ir.Node]) -> tuple[ir.Node, ir.Node]:
    """The QK^T and the PV MatMul of one attention, told apart by which side the Softmax is on."""
    context = [node for node in nodes if _produced_by(_input(node, 0, site), "Softmax")]
    scores = [node for node in nodes if node not in context]
    if len(context) != 1 or len(scores) != 1:
        raise _untied(site, f"expected QK^T and PV around one Softmax, found {len(nodes)} MatMuls")
    return scores[0], context[0]


def _produced_by(value: ir.Value, op_type: str) -> bool:
    producer = value.producer()
    return producer is not None and producer.op_type == op_type


def _input(node: ir.Node, index: int, site: Site) -> ir.Value:
    value = node.inputs[index]
    if value is None:
        raise _untied(site, f"node '{node.name}' lacks input {index}")
    return value


def _untied(site: Site, reason: str) -> SiteError:
    return SiteError(
        f"site '{site.name}' cannot be tied to the ONNX graph: {reason}",
        "compare the torch and transformers versions that `deploy doctor` prints with the ranges "
        "in pyproject.toml",
    )
