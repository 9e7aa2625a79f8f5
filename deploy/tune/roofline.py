"""What a unit gains from 8 bits, estimated where no backend can time it.

The roofline model (Williams et al. 2009): a kernel takes as long as its arithmetic at the peak
rate or its memory traffic at the peak bandwidth, whichever is longer. Counted are, for a linear,
its input read once, its weight, and its output; for attention, q, k, v and the output, since the
fused kernel keeps the scores on the chip; for a residual or a GELU's input, that tensor. Operands
count 1 byte in 8 bits and 2 otherwise; what is written always counts 2. Real kernels reach neither
peak, so the numbers rank units; they are no forecast of a latency.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from deploy.engine.profiles import Shape
from deploy.tune.units import Unit
from export.recipe import FREE_KINDS
from export.sites import SiteKind


@dataclass(frozen=True)
class Gpu:
    """Peaks of a GPU.

    Attributes:
        name: As a reader knows it.
        flops_16bit: Dense FP16 and BF16 tensor core rate, FLOP/s.
        flops_8bit: Dense FP8 and INT8 tensor core rate, operations/s.
        bandwidth: Of the memory, bytes/s.
    """

    name: str
    flops_16bit: float
    flops_8bit: float
    bandwidth: float


# NVIDIA H100 Tensor Core GPU datasheet, column H100 SXM, whose rates with sparsity are halved.
H100_SXM = Gpu("H100 SXM", flops_16bit=989.4e12, flops_8bit=1978.9e12, bandwidth=3.35e12)


@dataclass(frozen=True)
class Encoder:
    """The sizes that work is counted from.

    Attributes:
        weights: Module path of each linear to (inputs, outputs).
        attention_width: Heads times head dimension.
    """

    weights: Mapping[str, tuple[int, int]]
    attention_width: int


@dataclass(frozen=True)
class Work:
    """What a unit computes and moves in one pass.

    Attributes:
        flops: Multiplications and additions.
        operands: Elements read in the unit's own type.
        results: Elements written in high precision.
    """

    flops: float
    operands: float
    results: float


def unit_work(unit: Unit, encoder: Encoder, shape: Shape) -> Work:
    """Count the work of a unit on a batch of `shape`."""
    tokens = shape.batch * shape.sequence
    flops = operands = results = 0.0
    for site in unit.sites:
        if site.kind is SiteKind.LINEAR_WEIGHT:
            inputs, outputs = encoder.weights[site.modules[0]]
            flops += 2.0 * tokens * inputs * outputs
            operands += inputs * outputs
            results += tokens * outputs
        elif site.kind is SiteKind.LINEAR_INPUT:
            operands += tokens * encoder.weights[site.modules[0]][0]
        elif site.kind is SiteKind.ATTENTION_P:  # lives on the chip; stands for both MatMuls
            flops += 4.0 * tokens * shape.sequence * encoder.attention_width
            results += tokens * encoder.attention_width
        elif site.kind in FREE_KINDS:  # as wide as what its linear computes; read once
            operands += tokens * encoder.weights[site.modules[0]][1]
        else:
            operands += tokens * encoder.attention_width
    return Work(flops, operands, results)


def seconds(work: Work, gpu: Gpu, quantized: bool) -> float:
    """Least time that `work` takes, operands in 8 or in 16 bits."""
    rate = gpu.flops_8bit if quantized else gpu.flops_16bit
    traffic = work.operands * (1 if quantized else 2) + work.results * 2
    return max(work.flops / rate, traffic / gpu.bandwidth)


def benefit(work: Work, gpu: Gpu) -> float:
    """Seconds that 8 bits save; never negative."""
    return seconds(work, gpu, quantized=False) - seconds(work, gpu, quantized=True)
