"""Which tensors have to stay FP32 because they outgrow the type that the engine carries."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from export.carried import attention_scores, layernorm_input, linear_output
from export.errors import SiteError
from export.precision import FloatType
from export.sites import SCORES, bias_add, module_path

if TYPE_CHECKING:
    import onnx_ir as ir

_LOG = logging.getLogger(__name__)

# What follows these is as large as what they read.
_PASSING = frozenset({"Reshape", "Transpose", "Gelu"})


def wide_values(
    model: ir.Model, carried: Mapping[str, float], target: FloatType
) -> frozenset[ir.Value]:
    """The values of a graph that `target` cannot hold; each is logged, near misses too.

    Args:
        model: An FP32 model as `export_onnx` returns it, quantized or not.
        carried: Tensor name to the largest magnitude that calibration saw (`CalibrationTable`).
        target: The type that the graph is about to be cast to. FP16 ends at 65,504; of BF16 and
            FP32 nothing is wide.

    Raises:
        SiteError: A tensor that is too large cannot be found in the graph.
    """
    near = {name: amax for name, amax in carried.items() if amax > target.max_value / 2}
    over = {name: amax for name, amax in near.items() if amax > target.max_value}
    for name, amax in near.items():
        verdict = "stays fp32" if name in over else "is close to its limit"
        _LOG.warning(
            "%s reached %.0f in calibration; %s holds up to %.0f: it %s "
            "(--high-precision bf16 has the range)",
            name,
            amax,
            target.value,
            target.max_value,
            verdict,
        )
    values = _by_name(model) if over else {}
    missing = sorted(over.keys() - values.keys())
    if missing:
        raise SiteError(
            f"'{missing[0]}' outgrows {target.value} and cannot be found in the graph",
            "build with --high-precision bf16",
        )
    return frozenset(_with_followers(value for name in over for value in values[name]))


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


def _with_followers(values: Iterable[ir.Value]) -> Iterable[ir.Value]:
    queue = list(values)
    while queue:
        value = queue.pop()
        yield value
        queue += [use.node.outputs[0] for use in value.uses() if use.node.op_type in _PASSING]
        producer = value.producer()
        if producer is not None and producer.op_type == "MatMul":
            # DQ computes FP32 at once: a Cast behind it would keep the MatMul from its 8 bits.
            queue += [each for each in producer.inputs if each is not None and _dequantized(each)]


def _dequantized(value: ir.Value) -> bool:
    producer = value.producer()
    return producer is not None and producer.op_type == "DequantizeLinear"
