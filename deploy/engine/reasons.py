"""Why an operation is not the one 8-bit kernel that the graph asks for.

The builder gives no reasons, so these are inferred: a rule fits where the operation and the profile
are such that builds made for the purpose lost the kernel with nothing else out of the ordinary.
Those were two-layer BERTs, built by TensorRT for RTX 1.7 for SM89 and SM120, which never differed;
tests/deploy/test_reasons.py repeats one on either side of every limit. An attention in pieces still
multiplies in 8 bits where both operands are quantized, but its scores go through memory in FP16.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from deploy.engine.expected import Operation
from deploy.engine.profiles import MIN_FP8_SEQUENCE, Profile

NO_KNOWN_REASON = "no known reason"

# FP8: widths 4 to 256 fuse, multiples of 16 or not; 272 does not.
# FP16 and BF16: 9 to 256 fuse; 4, 8 and 272 do not.
_MAX_HEAD_DIM = 256
_MAX_UNFUSED_HALF_HEAD_DIM = 8

# INT8: of 4 to 272, these three fuse.
_INT8_HEAD_DIMS = (16, 32, 64)

# INT8: 512 tokens fuse, 513 do not, be the sequence static or the longest of a dynamic one.
_MAX_INT8_SEQUENCE = 512


@dataclass(frozen=True)
class _Rule:
    """One reason.

    Attributes:
        applies: Whether it explains an operation in a profile.
        reason: Says so, in one line.
    """

    applies: Callable[[Operation, Profile], bool]
    reason: Callable[[Operation, Profile], str]


_LINEAR_RULES = (
    # Either operand alone becomes a `runtime_fusion` that casts it up and multiplies in FP16.
    _Rule(
        lambda linear, _: _partly(linear),
        lambda linear, _: f"only its {_names(linear)} is quantized: a GEMM needs both operands",
    ),
)

_ATTENTION_RULES = (
    # With any of p, q, k, v, pv, qk or qkv left out, the attention falls into pieces, and a MatMul
    # that lacks an 8-bit operand runs in FP16; so does a lone softmax Q/DQ (qkv left out) to both.
    # v alone leaves the attention whole, in FP16.
    _Rule(
        lambda attention, _: _partly(attention),
        lambda attention, _: _partial_attention(attention),
    ),
    # FP8, INT8 and FP16 alike; two heads fuse.
    _Rule(
        lambda attention, _: attention.heads == 1,
        lambda *_: "one head: attention fuses from two",
    ),
    # 8, 16 and 31 tokens do not fuse, 32 do; of dynamic sequences, 16..64 and 1..512 do not, and
    # 32..640 does. INT8 and FP16 fuse from 1 token.
    _Rule(
        lambda attention, profile: (
            attention.quantized == "fp8" and profile.min.sequence < MIN_FP8_SEQUENCE
        ),
        lambda _, profile: _short_sequence(profile),
    ),
    _Rule(
        lambda attention, profile: (
            attention.quantized == "int8" and profile.max.sequence > _MAX_INT8_SEQUENCE
        ),
        lambda _, profile: (
            f"sequence {profile.max.sequence}: INT8 attention fuses up to {_MAX_INT8_SEQUENCE}"
        ),
    ),
    # INT8 fuses with FP16 and FP32 around it; FP8 with BF16 too.
    _Rule(
        lambda attention, _: attention.quantized == "int8" and attention.carried == "bf16",
        lambda *_: "bf16 around it: INT8 attention fuses with fp16 or fp32 only",
    ),
    _Rule(
        lambda attention, _: (
            attention.quantized == "int8" and attention.head_dim not in _INT8_HEAD_DIMS
        ),
        lambda attention, _: (
            f"head dim {attention.head_dim}: INT8 attention fuses for "
            f"{', '.join(map(str, _INT8_HEAD_DIMS[:-1]))} and {_INT8_HEAD_DIMS[-1]}"
        ),
    ),
    _Rule(
        lambda attention, _: _head_dim(attention) > _MAX_HEAD_DIM and attention.quantized != "int8",
        lambda attention, _: (
            f"head dim {attention.head_dim}: attention fuses up to {_MAX_HEAD_DIM}"
        ),
    ),
    _Rule(
        lambda attention, _: (
            attention.quantized is None and _head_dim(attention) <= _MAX_UNFUSED_HALF_HEAD_DIM
        ),
        lambda attention, _: (
            f"head dim {attention.head_dim}: attention fuses from {_MAX_UNFUSED_HALF_HEAD_DIM + 1}"
        ),
    ),
    # An FP32 model fuses no attention; INT8 and FP8 attention in one does fuse.
    _Rule(
        lambda attention, _: attention.quantized is None and attention.carried == "fp32",
        lambda *_: "fp32: attention fuses in fp16, bf16 or 8 bits only",
    ),
)

# Taken for a reason only where none above fits: "FP8: head size must be a multiple of 16, from 16
# to 256" (documentation of TensorRT 10, section on multi-head attention fusion). TensorRT for RTX
# 1.7 does without, and there is no measurement of datacenter TensorRT.
_DOCUMENTED = _Rule(
    lambda operation, _: operation.quantized == "fp8" and _head_dim(operation) % 16 != 0,
    lambda operation, _: (
        f"head dim {operation.head_dim}: datacenter TensorRT documents FP8 attention for multiples "
        "of 16"
    ),
)


def why_unfused(operation: Operation, profile: Profile) -> str:
    """Say why an operation is not the kernel that the graph asks for.

    Args:
        operation: It, known not to be fused.
        profile: The optimization profile it is not fused in.

    Returns:
        All reasons that apply, or "no known reason".
    """
    rules = _LINEAR_RULES if operation.head_dim is None else _ATTENTION_RULES
    fitting = [rule for rule in rules if rule.applies(operation, profile)]
    if not fitting and _DOCUMENTED.applies(operation, profile):
        fitting = [_DOCUMENTED]
    return "; ".join(rule.reason(operation, profile) for rule in fitting) or NO_KNOWN_REASON


def _partly(operation: Operation) -> bool:
    return None in operation.operands.values() and operation.quantized is not None


def _names(operation: Operation) -> str:
    return ", ".join(name for name, codes in operation.operands.items() if codes is not None)


def _partial_attention(attention: Operation) -> str:
    quantized = _names(attention)
    what = "softmax output (p)" if quantized == "p" else quantized
    return f"only its {what} is quantized: all of q, k, p and v, or none"


def _short_sequence(profile: Profile) -> str:
    shortest, longest = profile.min.sequence, profile.max.sequence
    limit = f"FP8 attention fuses from {MIN_FP8_SEQUENCE} tokens"
    if shortest == longest:
        return f"sequence {shortest}: {limit}"
    return f"dynamic sequence {shortest} to {longest}: {limit}, the shortest counts"


def _head_dim(operation: Operation) -> int:
    return operation.head_dim or 0
