"""Turn an exported graph, quantized or not, into a torch module.

Node by node, so that Q/DQ are computed as the graph has them; or with the groups of nodes replaced
that the GPU has an operation for: 8-bit linears as 8-bit GEMMs, query, key and value as one GEMM,
and attention as one kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Union

from deploy.engine import torch_kernels
from deploy.engine.torch_emitter import Emitter, to_torch
from deploy.engine.torch_operators import emit_node
from deploy.engine.torch_patterns import (
    Attention,
    Linear,
    LinearGroup,
    QuantizedAttention,
    find_attentions,
    find_epilogue,
    find_linears,
    find_quantized_attentions,
)

if TYPE_CHECKING:
    import onnx_ir as ir
    from torch import Tensor, fx


@dataclass(frozen=True)
class Lowering:
    """What is replaced by an operation of the GPU's.

    Attributes:
        eight_bit_linears: Linears of 8-bit operands become 8-bit GEMMs. FP8 needs compute
            capability 8.9.
        merged_linears: Linears of one input become one GEMM.
        fused_quantization: Kernels of 8-bit operands hand on codes where codes are read next:
            query, key and value to attention, attention to the projection after it, and the first
            feed-forward linear, through GELU, to the second.
        fused_attention: Attention becomes one kernel, which keeps its softmax output to itself,
            unquantized.
    """

    eight_bit_linears: bool = False
    merged_linears: bool = False
    fused_quantization: bool = False
    fused_attention: bool = False


AS_WRITTEN = Lowering()
"""Node by node: every Q/DQ is computed, every product in the graph's floating-point type."""

FOR_GPU = Lowering(
    eight_bit_linears=True, merged_linears=True, fused_quantization=True, fused_attention=True
)
"""Everything that has an operation of its own."""


@dataclass(frozen=True)
class TorchGraph:
    """A module, and what became of the graph in it.

    Attributes:
        module: Takes the inputs in order, and returns the outputs in order.
        unmasked: The same, on the same weights, for batches without padding: without a mask
            `scaled_dot_product_attention` has faster kernels. `module` itself where that is not
            what computes attention.
        input_names: Token inputs, int64 [batch, sequence].
        output_names: FP32 outputs.
        simulated: What is quantized in the graph, and computed otherwise here.
    """

    module: fx.GraphModule
    unmasked: fx.GraphModule
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    simulated: tuple[str, ...]


def convert(model: ir.Model, lowering: Lowering = AS_WRITTEN, device: str = "cpu") -> TorchGraph:
    """Convert a graph.

    Args:
        model: As `export` writes it, of any precision.
        lowering: What is replaced.
        device: Where the constants go, each in its stored type.

    Raises:
        BackendError: An operator, or an attribute of one, that no exported graph has.
    """
    return _Converter(model, lowering, device).convert()


_Replacement = Union[LinearGroup, Attention, QuantizedAttention]  # noqa: UP007


class _Converter:
    def __init__(self, model: ir.Model, lowering: Lowering, device: str) -> None:
        self._model = model
        self._lowering = lowering
        self._device = device
        self._emitter = Emitter()
        self._simulated: dict[str, None] = {}
        self._done: set[ir.Node] = set()  # nodes that a kernel before them has computed
        self._triton = lowering.fused_quantization and device != "cpu"

    def convert(self) -> TorchGraph:
        from torch import fx

        graph = self._emitter.graph
        starts = self._replacements()
        replaced = {node for each in starts.values() for node in each.nodes}
        for value in self._model.graph.inputs:
            self._emitter.known[value] = graph.placeholder(_identifier(value))
        for node in self._model.graph:
            if node in starts:
                self._emit(starts[node])
            elif node not in replaced and node not in self._done:
                emit_node(self._emitter, node)
        graph.output(tuple(self._emitter.known[value] for value in self._model.graph.outputs))
        # Weights that a group has taken over are dequantized for nobody.
        graph.eliminate_dead_code()
        root = self._emitter.root(self._device)
        module = fx.GraphModule(root, graph).eval()
        return TorchGraph(
            module=module,
            unmasked=fx.GraphModule(root, _without_mask(graph)).eval()
            if graph.find_nodes(op="call_function", target=torch_kernels.attention)
            else module,
            input_names=tuple(_identifier(value) for value in self._model.graph.inputs),
            output_names=tuple(_identifier(value) for value in self._model.graph.outputs),
            simulated=tuple(self._simulated),
        )

    def _replacements(self) -> dict[ir.Node, _Replacement]:
        """What is emitted in place of which node; everything it reads is known by then."""
        lowering = self._lowering
        groups = [
            group
            for group in find_linears(self._model)
            if group.input_scale is None
            or (lowering.eight_bit_linears and _fits_tensor_cores(group))
        ]
        attentions = find_attentions(self._model) if lowering.fused_attention else ()
        whole = find_quantized_attentions(groups, attentions) if lowering.fused_quantization else ()
        starts: dict[ir.Node, _Replacement] = {each.attention.nodes[-1]: each for each in whole}
        taken = {node for each in whole for node in each.nodes}
        for group in groups:
            parts = [group] if lowering.merged_linears else _single(group)
            starts |= {part.nodes[0]: part for part in parts if part.nodes[0] not in taken}
        for attention in attentions:
            starts.setdefault(attention.nodes[-1], attention)
        return starts

    def _emit(self, replacement: _Replacement) -> None:
        if isinstance(replacement, LinearGroup):
            self._emit_linears(replacement)
        elif isinstance(replacement, Attention):
            self._emit_attention(replacement)
        else:
            self._emit_quantized_attention(replacement)

    def _emit_linears(self, group: LinearGroup) -> None:
        import torch

        x = self._emitter.tensor(group.input)
        name = group.linears[0].matmul.name or "linear"
        weight = torch.cat([to_torch(linear.weight).t() for linear in group.linears]).contiguous()
        bias = self._emitter.constant(
            (name, "bias"), torch.cat([to_torch(linear.bias) for linear in group.linears])
        )
        if group.input_scale is None:
            result = self._emitter.call(
                torch_kernels.linear, x, self._emitter.constant((name, "weight"), weight), bias
            )
        else:
            result = self._emit_quantized(group, name, x, weight, bias)
        start = 0
        for linear in group.linears:
            channels = to_torch(linear.bias).numel()
            part = result
            if len(group.linears) > 1:
                part = self._emitter.call(torch.narrow, result, -1, start, channels)
            self._emitter.known[linear.output] = part
            start += channels

    def _emit_quantized(
        self, group: LinearGroup, name: str, x: Any, weight: Tensor, bias: fx.Node
    ) -> fx.Node:
        """A linear of 8-bit operands; `weight` are codes, [N, K]."""
        import torch

        epilogue = None
        if self._lowering.fused_quantization and len(group.linears) == 1:
            epilogue = find_epilogue(group.linears[0])
        if epilogue is None and weight.dtype is torch.float8_e4m3fn:
            one = self._emitter.constant("one", torch.ones(()))
            codes, scale, channel = self._quantized_weight(group, name, weight)
            return self._emitter.call(torch_kernels.fp8_linear, x, codes, scale, one, channel, bias)
        if epilogue is None:
            return self._quantized_linear(group, name, x, weight, bias, False, None)
        step = 1.0 / to_torch(_scale(epilogue.quantize)).float()
        steps = step.expand(len(weight)).contiguous()
        result = self._quantized_linear(group, name, x, weight, bias, True, steps)
        self._emitter.known[epilogue.quantize.outputs[0]] = result
        self._done |= {epilogue.gelu, epilogue.quantize}
        return result

    def _quantized_linear(
        self,
        group: LinearGroup,
        name: str,
        x: Any,
        weight: Tensor,
        bias: fx.Node,
        gelu: bool,
        steps: Tensor | None,
    ) -> fx.Node:
        function = torch_kernels.quantized_linear
        if self._triton:
            from deploy.engine.triton_linear import quantized_linear as function
        out = None if steps is None else self._emitter.constant((name, "steps"), steps)
        weights = self._quantized_weight(group, name, weight)
        return self._emitter.call(function, x, *weights, bias, gelu, out)

    def _quantized_weight(
        self, group: LinearGroup, name: str, weight: Tensor
    ) -> tuple[fx.Node, fx.Node, fx.Node]:
        """Codes, scale and the channels' shares of it, as `torch_kernels` wants them."""
        import torch

        assert group.input_scale is not None
        scales = torch.cat([_channel_scales(linear) for linear in group.linears])
        largest = scales.max()
        return (
            # Column-major, the layout that 8-bit tensor cores read.
            self._emitter.constant((name, "weight"), weight.t()),
            self._emitter.constant((name, "scale"), to_torch(group.input_scale).float() * largest),
            self._emitter.constant((name, "channel"), scales / largest),
        )

    def _emit_quantized_attention(self, whole: QuantizedAttention) -> None:
        import torch

        linears = whole.group.linears
        name = linears[0].matmul.name or "attention"
        weight = torch.cat([to_torch(linear.weight).t() for linear in linears]).contiguous()
        bias = torch.cat([to_torch(linear.bias) for linear in linears])
        q, k, p, v, result = (to_torch(scale).float().reshape(()) for scale in whole.scales)
        steps = torch.cat([(1.0 / s).expand(len(weight) // 3) for s in (q, k, v)])
        qkv = self._quantized_linear(
            whole.group,
            name,
            self._emitter.tensor(whole.group.input),
            weight,
            self._emitter.constant((name, "bias"), bias),
            False,
            steps,
        )
        function = torch_kernels.quantized_attention
        if self._triton:
            from deploy.engine.triton_attention import quantized_attention as function
        scales = self._emitter.constant((name, "scales"), torch.stack([q * k, p, v, result]))
        mask = self._emitter.tensor(whole.attention.mask)
        self._emitter.known[whole.codes] = self._emitter.call(
            function, qkv, scales, whole.heads, mask
        )

    def _emit_attention(self, attention: Attention) -> None:
        self._emitter.known[attention.nodes[-1].outputs[0]] = self._emitter.call(
            torch_kernels.attention,
            self._emitter.tensor(attention.q),
            self._emitter.tensor(attention.k_transposed),
            self._emitter.tensor(attention.v),
            self._emitter.tensor(attention.mask),
        )
        if attention.drops is not None:
            self._simulated["attention: softmax output not quantized, products in 16 bits"] = None


def _without_mask(graph: fx.Graph) -> fx.Graph:
    from torch import fx

    copy = fx.Graph()
    copy.output(copy.graph_copy(graph, {}))
    for node in copy.find_nodes(op="call_function", target=torch_kernels.attention):
        node.args = (*node.args[:-1], None)
    copy.eliminate_dead_code()
    return copy


def _fits_tensor_cores(group: LinearGroup) -> bool:
    """Whether rows of the operands are of whole 16 bytes, as 8-bit GEMMs want them."""
    shapes = (to_torch(linear.weight).shape for linear in group.linears)
    return all(size % 16 == 0 for shape in shapes for size in shape)


def _single(group: LinearGroup) -> list[LinearGroup]:
    return [LinearGroup((linear,), group.input, group.input_scale) for linear in group.linears]


def _scale(quantize: ir.Node) -> ir.Value:
    assert quantize.inputs[1] is not None
    return quantize.inputs[1]


def _channel_scales(linear: Linear) -> Tensor:
    """Scales of a linear's weight, float32 [N]."""
    assert linear.weight_scale is not None
    scale = to_torch(linear.weight_scale).float()
    return scale.expand(to_torch(linear.weight).shape[1]).contiguous()


def _identifier(value: ir.Value) -> str:
    assert value.name is not None
    return value.name
