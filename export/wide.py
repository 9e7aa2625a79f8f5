"""Which tensors have to stay FP32 because they outgrow the type that the engine carries."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from export.carried import attention_scores, layernorm_input, linear_output
from export.errors import SiteError
from export.precision import FloatType
from export.sites import CONTEXT, SCORES, bias_add, module_path

if TYPE_CHECKING:
    import onnx_ir as ir

_LOG = logging.getLogger(__name__)

# What comes out of these has a size of its own.
_SETTLING = frozenset({"LayerNormalization", "Softmax", "Tanh", "MatMul", "Gemm"})


_REMEDY = "leave fp16 out of --precision, and build the others with --high-precision bf16"


def warn_of_wide_tensors(carried: Mapping[str, float], target: FloatType) -> None:
    """Log every tensor that came near the end of a type, or went beyond.

    Args:
        carried: Tensor name to the largest magnitude that calibration saw.
        target: A type that the graph is to carry.
    """
    for name, amax in carried.items():
        if amax > target.max_value / 2:
            verdict = "stays fp32" if amax > target.max_value else "is close to the limit"
            _LOG.warning(
                "%s reached %.0f in calibration and %s holds up to %.0f: it %s; to rule it out, %s",
                name,
                amax,
                target.value,
                target.max_value,
                verdict,
                _REMEDY,
            )


def wide_values(
    model: ir.Model, carried: Mapping[str, float], target: FloatType
) -> frozenset[ir.Value]:
    """The values of a graph that `target` cannot hold.

    Args:
        model: An FP32 model as `export_onnx` returns it, quantized or not.
        carried: Tensor name to the largest magnitude that calibration saw (`CalibrationTable`).
        target: The type that the graph is about to be cast to. FP16 ends at 65,504; of BF16 and
            FP32 nothing is wide.

    Raises:
        SiteError: A tensor that is too large cannot be found in the graph.
    """
    over = [name for name, amax in carried.items() if amax > target.max_value]
    values = _by_name(model) if over else {}
    missing = sorted(set(over) - values.keys())
    if missing:
        raise SiteError(
            f"'{missing[0]}' outgrows {target.value} and cannot be found in the graph",
            _REMEDY,
        )
    return _closure(value for name in over for value in values[name])


def _by_name(model: ir.Model) -> dict[str, tuple[ir.Value, ...]]:
    """The values behind each name that calibration watches, the bias added or not yet."""
    values: dict[str, tuple[ir.Value, ...]] = {}
    for node in model.graph:
        path = module_path(node)
        result = node.outputs[0]
        if node.op_type == "LayerNormalization" and node.inputs[0] is not None:
            values[layernorm_input(path)] = (node.inputs[0],)
        elif node.op_type == "Gemm":
            values[linear_output(path)] = (result,)
        elif node.op_type == "MatMul" and node.name == f"{path}.{SCORES}":
            masked = (use.node.outputs[0] for use in result.uses() if use.node.op_type == "Add")
            values[attention_scores(path)] = (result, *masked)
        elif node.op_type == "MatMul":
            add = bias_add(node)
            values[linear_output(path)] = (result,) if add is None else (result, add[0].outputs[0])
    return values


def _closure(seeds: Iterable[ir.Value]) -> frozenset[ir.Value]:
    """Everything that has to be FP32 where the seeds are.

    A wide value is followed through element-wise operators, shapes and Q/DQ, up to what brings it
    back to size. A MatMul next to one gets both of its dequantized operands in FP32: DQ computes
    them so at once, where a Cast behind DQ would keep the MatMul from its 8 bits.
    """
    followed: set[ir.Value] = set()
    queue = list(seeds)
    while queue:
        value = queue.pop()
        if value in followed:
            continue
        followed.add(value)
        for use in value.uses():
            queue += _carried_on(use.node)
    operands: set[ir.Value] = set()
    queue = list(followed)
    while queue:
        value = queue.pop()
        for node in (value.producer(), *(use.node for use in value.uses())):
            if node is not None and node.op_type == "MatMul":
                new = {each for each in node.inputs if each is not None and _dequantized(each)}
                queue += new - operands
                operands |= new
    return frozenset(followed | operands)


def _carried_on(node: ir.Node) -> list[ir.Value]:
    """The results of a node that are about as large as what it reads."""
    if node.op_type == "QuantizeLinear":
        return [output for use in node.outputs[0].uses() for output in use.node.outputs]
    # PV averages the rows of v; every other product is watched under a name of its own.
    averages = (node.name or "").endswith(f".{CONTEXT}")
    if node.op_type in _SETTLING and not averages:
        return []
    return [output for output in node.outputs if output.dtype is FloatType.FP32.onnx]


def _dequantized(value: ir.Value) -> bool:
    producer = value.producer()
    return producer is not None and producer.op_type == "DequantizeLinear"
