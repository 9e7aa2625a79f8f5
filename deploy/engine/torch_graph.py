"""Turn an exported graph, quantized or not, into a torch module.

Node by node, so that Q/DQ are computed as the graph has them; or with the groups of nodes replaced
that the GPU has an operation for: 8-bit linears as 8-bit GEMMs, query, key and value as one GEMM,
and attention as one kernel.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Union

from deploy.engine import torch_kernels, torch_ops
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
from deploy.errors import BackendError

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch
    from torch import Tensor, fx

_TORCH_NAMES = {
    "FLOAT": "float32",
    "FLOAT16": "float16",
    "BFLOAT16": "bfloat16",
    "FLOAT8E4M3FN": "float8_e4m3fn",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}


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
        from torch import fx

        self._model = model
        self._lowering = lowering
        self._device = device
        self._graph = fx.Graph()
        # What a value is in the module: a node of the graph, or for shapes, Python numbers.
        self._known: dict[ir.Value, Any] = {}
        self._constants: dict[Any, fx.Node] = {}
        self._contents: dict[str, Tensor] = {}
        self._simulated: dict[str, None] = {}
        self._done: set[ir.Node] = set()  # nodes that a kernel before them has computed
        self._triton = device != "cpu"

    def convert(self) -> TorchGraph:
        import torch
        from torch import fx

        starts = self._replacements()
        replaced = {node for each in starts.values() for node in each.nodes}
        for value in self._model.graph.inputs:
            self._known[value] = self._graph.placeholder(_identifier(value))
        for node in self._model.graph:
            if node in starts:
                self._emit(starts[node])
            elif node not in replaced and node not in self._done:
                self._emit_node(node)
        self._graph.output(tuple(self._known[value] for value in self._model.graph.outputs))
        # Weights that a group has taken over are dequantized for nobody.
        self._graph.eliminate_dead_code()
        root = torch.nn.Module()
        for name in {node.target for node in self._graph.nodes if node.op == "get_attr"}:
            root.register_buffer(str(name), self._contents[str(name)].to(self._device))
        module = fx.GraphModule(root, self._graph).eval()
        return TorchGraph(
            module=module,
            unmasked=fx.GraphModule(root, self._without_mask()).eval()
            if self._graph.find_nodes(op="call_function", target=torch_kernels.attention)
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
            if group.input_scale is None or lowering.eight_bit_linears
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

        x = self._tensor(group.input)
        name = group.linears[0].matmul.name or "linear"
        weight = torch.cat([_to_torch(linear.weight).t() for linear in group.linears]).contiguous()
        bias = self._constant(
            (name, "bias"), torch.cat([_to_torch(linear.bias) for linear in group.linears])
        )
        if group.input_scale is None:
            result = self.call(
                torch_kernels.linear, x, self._constant((name, "weight"), weight), bias
            )
        else:
            result = self._emit_quantized(group, name, x, weight, bias)
        start = 0
        for linear in group.linears:
            channels = _to_torch(linear.bias).numel()
            part = result
            if len(group.linears) > 1:
                part = self.call(torch.narrow, result, -1, start, channels)
            self._known[linear.output] = part
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
            one = self._constant("one", torch.ones(()))
            codes, scale, channel = self._quantized_weight(group, name, weight)
            return self.call(torch_kernels.fp8_linear, x, codes, scale, one, channel, bias)
        if epilogue is None:
            return self._quantized_linear(group, name, x, weight, bias, False, None)
        step = 1.0 / _to_torch(_scale(epilogue.quantize)).float()
        steps = step.expand(len(weight)).contiguous()
        result = self._quantized_linear(group, name, x, weight, bias, True, steps)
        self._known[epilogue.quantize.outputs[0]] = result
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
        out = None if steps is None else self._constant((name, "steps"), steps)
        weights = self._quantized_weight(group, name, weight)
        return self.call(function, x, *weights, bias, gelu, out)

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
            self._constant((name, "weight"), weight.t()),
            self._constant((name, "scale"), _to_torch(group.input_scale).float() * largest),
            self._constant((name, "channel"), scales / largest),
        )

    def _emit_quantized_attention(self, whole: QuantizedAttention) -> None:
        import torch

        linears = whole.group.linears
        name = linears[0].matmul.name or "attention"
        weight = torch.cat([_to_torch(linear.weight).t() for linear in linears]).contiguous()
        bias = torch.cat([_to_torch(linear.bias) for linear in linears])
        q, k, p, v, result = (_to_torch(scale).float().reshape(()) for scale in whole.scales)
        steps = torch.cat([(1.0 / s).expand(len(weight) // 3) for s in (q, k, v)])
        qkv = self._quantized_linear(
            whole.group,
            name,
            self._tensor(whole.group.input),
            weight,
            self._constant((name, "bias"), bias),
            False,
            steps,
        )
        function = torch_kernels.quantized_attention
        if self._triton:
            from deploy.engine.triton_attention import quantized_attention as function
        scales = self._constant((name, "scales"), torch.stack([q * k, p, v, result]))
        mask = self._tensor(whole.attention.mask)
        self._known[whole.codes] = self.call(function, qkv, scales, whole.heads, mask)

    def _emit_attention(self, attention: Attention) -> None:
        self._known[attention.nodes[-1].outputs[0]] = self.call(
            torch_kernels.attention,
            self._tensor(attention.q),
            self._tensor(attention.k_transposed),
            self._tensor(attention.v),
            self._tensor(attention.mask),
        )
        if attention.drops is not None:
            self._simulated["attention: softmax output not quantized, products in 16 bits"] = None

    def _emit_node(self, node: ir.Node) -> None:
        handler = _HANDLERS.get(node.op_type)
        if handler is None or node.domain not in {"", "ai.onnx"}:
            raise BackendError(
                f"the torch backend has no operator '{node.domain or 'ai.onnx'}.{node.op_type}' "
                f"(node '{node.name}')",
                "use --backend onnxruntime, or export the model with `deploy build`",
            )
        results = handler(self, node)
        outputs = results if isinstance(results, tuple) else (results,)
        for value, result in zip(node.outputs, outputs, strict=True):
            self._known[value] = result

    def _without_mask(self) -> fx.Graph:
        from torch import fx

        copy = fx.Graph()
        copy.output(copy.graph_copy(self._graph, {}))
        for node in copy.find_nodes(op="call_function", target=torch_kernels.attention):
            node.args = (*node.args[:-1], None)
        copy.eliminate_dead_code()
        return copy

    def tensor(self, node: ir.Node, index: int) -> Any:
        """An input as a tensor."""
        value = node.inputs[index]
        assert value is not None
        return self._tensor(value)

    def _tensor(self, value: ir.Value) -> Any:
        if value not in self._known:
            self._known[value] = self._constant(value, _to_torch(value))
        return self._known[value]

    def numbers(self, node: ir.Node, index: int) -> Any:
        """An input that says a shape, axes or a position: Python numbers, or a node of them."""
        value = node.inputs[index]
        assert value is not None
        if value.const_value is not None:
            return value.const_value.numpy().tolist()
        return self._known[value]

    def _constant(self, key: Any, content: Tensor) -> fx.Node:
        if key not in self._constants:
            name = f"constant_{len(self._constants)}"
            self._contents[name] = content
            self._constants[key] = self._graph.get_attr(name)
        return self._constants[key]

    def call(self, function: Callable[..., Any], *arguments: Any) -> fx.Node:
        return self._graph.call_function(function, arguments)


def _single(group: LinearGroup) -> list[LinearGroup]:
    return [LinearGroup((linear,), group.input, group.input_scale) for linear in group.linears]


def _scale(quantize: ir.Node) -> ir.Value:
    assert quantize.inputs[1] is not None
    return quantize.inputs[1]


_Handler = Callable[[_Converter, "ir.Node"], Any]


def _attributes(node: ir.Node, **expected: Any) -> None:
    """Refuse an attribute whose value no exported graph has; absent ones have their default."""
    for name, value in expected.items():
        found = node.attributes.get(name)
        if found is not None and found.value != value:
            raise BackendError(
                f"the torch backend knows {node.op_type} with {name}={value} only, not "
                f"{found.value} (node '{node.name}')",
                "use --backend onnxruntime, or export the model with `deploy build`",
            )


def _integer(node: ir.Node, name: str, default: int) -> int:
    found = node.attributes.get(name)
    return default if found is None else int(found.value)


def _elementwise(function: Callable[..., Any]) -> _Handler:
    def handle(converter: _Converter, node: ir.Node) -> Any:
        operands = [converter.tensor(node, index) for index in range(len(node.inputs))]
        return converter.call(function, *operands)

    return handle


def _cast(converter: _Converter, node: ir.Node) -> Any:
    import onnx_ir as ir

    dtype = _torch_type(ir.DataType(node.attributes["to"].value))
    return converter.call(_to, converter.tensor(node, 0), dtype)


def _to(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(dtype)


def _quantize(converter: _Converter, node: ir.Node) -> Any:
    zero_point = node.inputs[2]
    assert zero_point is not None
    assert zero_point.dtype is not None
    dtype = _torch_type(zero_point.dtype)
    return converter.call(
        torch_ops.quantize, converter.tensor(node, 0), converter.tensor(node, 1), dtype
    )


def _dequantize(converter: _Converter, node: ir.Node) -> Any:
    axis = _integer(node, "axis", 1)
    return converter.call(
        torch_ops.dequantize, converter.tensor(node, 0), converter.tensor(node, 1), axis
    )


def _shape(converter: _Converter, node: ir.Node) -> Any:
    end = node.attributes.get("end")
    return converter.call(
        torch_ops.shape_of,
        converter.tensor(node, 0),
        _integer(node, "start", 0),
        None if end is None else int(end.value),
    )


def _concat(converter: _Converter, node: ir.Node) -> Any:
    # Exported encoders join shapes, and nothing else.
    parts = [converter.numbers(node, index) for index in range(len(node.inputs))]
    return converter.call(torch_ops.join, *parts)


def _with_numbers(function: Callable[..., Any]) -> _Handler:
    """A tensor, then inputs that are numbers."""

    def handle(converter: _Converter, node: ir.Node) -> Any:
        numbers = [converter.numbers(node, index) for index in range(1, len(node.inputs))]
        return converter.call(function, converter.tensor(node, 0), *numbers)

    return handle


def _gather(converter: _Converter, node: ir.Node) -> Any:
    indices = node.inputs[1]
    assert indices is not None
    constant = indices.const_value is not None and not indices.const_value.shape
    where = converter.numbers(node, 1) if constant else converter.tensor(node, 1)
    axis = _integer(node, "axis", 0)
    return converter.call(torch_ops.gather, converter.tensor(node, 0), where, axis)


def _gather_elements(converter: _Converter, node: ir.Node) -> Any:
    axis = _integer(node, "axis", 0)
    indices = converter.tensor(node, 1)
    return converter.call(torch_ops.gather_elements, converter.tensor(node, 0), indices, axis)


def _gemm(converter: _Converter, node: ir.Node) -> Any:
    _attributes(node, alpha=1.0, beta=1.0, transA=0)
    a, b = converter.tensor(node, 0), converter.tensor(node, 1)
    c = converter.tensor(node, 2) if len(node.inputs) > 2 else None
    return converter.call(torch_ops.gemm, a, b, c, bool(_integer(node, "transB", 0)))


def _layer_norm(converter: _Converter, node: ir.Node) -> Any:
    _attributes(node, axis=-1, stash_type=1)
    epsilon = node.attributes.get("epsilon")
    return converter.call(
        torch_ops.layer_norm,
        *(converter.tensor(node, index) for index in range(3)),
        1e-5 if epsilon is None else float(epsilon.value),
    )


def _softmax(converter: _Converter, node: ir.Node) -> Any:
    import torch

    return converter.call(torch.softmax, converter.tensor(node, 0), _integer(node, "axis", -1))


def _transpose(converter: _Converter, node: ir.Node) -> Any:
    import torch

    order = tuple(node.attributes["perm"].value)
    return converter.call(torch.permute, converter.tensor(node, 0), order)


def _cumulative_sum(converter: _Converter, node: ir.Node) -> Any:
    _attributes(node, reverse=0, exclusive=0)
    return converter.call(
        torch_ops.cumulative_sum, converter.tensor(node, 0), converter.numbers(node, 1)
    )


def _split(converter: _Converter, node: ir.Node) -> Any:
    import torch

    count = len(node.outputs)
    _attributes(node, num_outputs=count)
    parts = converter.call(
        torch.tensor_split, converter.tensor(node, 0), count, _integer(node, "axis", 0)
    )
    return tuple(converter.call(operator.getitem, parts, index) for index in range(count))


def _gelu(converter: _Converter, node: ir.Node) -> Any:
    import torch

    _attributes(node, approximate="none")
    return converter.call(torch.nn.functional.gelu, converter.tensor(node, 0))


_HANDLERS: Mapping[str, _Handler] = {
    "Add": _elementwise(operator.add),
    "Cast": _cast,
    "Concat": _concat,
    "CumSum": _cumulative_sum,
    "DequantizeLinear": _dequantize,
    "Div": _elementwise(operator.truediv),
    "Equal": _elementwise(operator.eq),
    "Expand": _with_numbers(torch_ops.expand),
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "LayerNormalization": _layer_norm,
    "MatMul": _elementwise(operator.matmul),
    "Mul": _elementwise(operator.mul),
    "Not": _elementwise(operator.invert),
    "QuantizeLinear": _quantize,
    "Relu": _elementwise(torch_ops.relu),
    "Reshape": _with_numbers(torch_ops.reshape),
    "Shape": _shape,
    "Slice": _with_numbers(torch_ops.slice_axes),
    "Softmax": _softmax,
    "Split": _split,
    "Squeeze": _with_numbers(torch_ops.squeeze),
    "Sub": _elementwise(operator.sub),
    "Tanh": _elementwise(torch_ops.tanh),
    "Transpose": _transpose,
    "Unsqueeze": _with_numbers(torch_ops.unsqueeze),
}


def _channel_scales(linear: Linear) -> Tensor:
    """Scales of a linear's weight, float32 [N]."""
    assert linear.weight_scale is not None
    scale = _to_torch(linear.weight_scale).float()
    return scale.expand(_to_torch(linear.weight).shape[1]).contiguous()


def _to_torch(value: ir.Value) -> Tensor:
    """A constant as torch has it."""
    import numpy as np
    import torch

    constant = value.const_value
    assert constant is not None
    dtype = _torch_type(constant.dtype)
    array = np.ascontiguousarray(constant.numpy()).reshape(tuple(constant.shape))
    # torch takes no array of a type that numpy itself does not have: by way of its bytes.
    if dtype in {torch.float8_e4m3fn, torch.bfloat16}:
        bits = array.view(np.int8 if array.itemsize == 1 else np.int16)
        return torch.from_numpy(bits.copy()).view(dtype)
    return torch.from_numpy(array.copy())


def _torch_type(dtype: ir.DataType) -> torch.dtype:
    import torch

    name = _TORCH_NAMES.get(dtype.name)
    if name is None:
        raise BackendError(
            f"the torch backend has no element type {dtype.name}",
            "use --backend onnxruntime, or export the model with `deploy build`",
        )
    found: torch.dtype = getattr(torch, name)
    return found


def _identifier(value: ir.Value) -> str:
    assert value.name is not None
    return value.name
