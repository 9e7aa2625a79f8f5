"""How large the tensors grow that an engine carries unquantized: FP16 ends at 65,504."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from export.sites import LayerNames

if TYPE_CHECKING:
    from torch import Tensor


def linear_output(module: str) -> str:
    """Name of what a linear computes, bias included."""
    return f"{module}.output"


def layernorm_input(module: str) -> str:
    """Name of what a LayerNorm reads: in an encoder layer, a residual sum."""
    return f"{module}.input"


def attention_scores(module: str) -> str:
    """Name of an attention's QK^T, ahead of the mask."""
    return f"{module}.scores"


@dataclass
class CarriedRanges:
    """The largest magnitude of each tensor that was seen.

    Attributes:
        amax: Tensor name to its largest magnitude.
    """

    amax: dict[str, float] = field(default_factory=dict)

    def see(self, name: str, values: Tensor) -> None:
        """Take a tensor of any shape into account, padding included: it may overflow as well."""
        import torch

        low, high = torch.aminmax(values.detach())
        self.amax[name] = max(self.amax.get(name, 0.0), -float(low), float(high))


@contextmanager
def watch_carried(model: Any, layers: Sequence[LayerNames]) -> Iterator[CarriedRanges]:
    """Watch every output of a linear, every input of a LayerNorm, and every attention's scores.

    Args:
        model: The torch model with ModelOpt's quantizers, which show q and k.
        layers: As `layer_names` gives them.
    """
    from torch import nn

    ranges = CarriedRanges()
    hooks = []
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear):
            hooks.append(module.register_forward_hook(_output_hook(ranges, linear_output(path))))
        elif isinstance(module, nn.LayerNorm):
            hooks.append(
                module.register_forward_pre_hook(_input_hook(ranges, layernorm_input(path)))
            )
    for layer in layers:
        hooks += _watch_scores(ranges, model.get_submodule(layer.attention), layer.attention)
    try:
        yield ranges
    finally:
        for hook in hooks:
            hook.remove()


def _watch_scores(ranges: CarriedRanges, attention: Any, path: str) -> list[Any]:
    """QK^T is no module's input or output: it is computed again from what the quantizers see."""
    query: list[Tensor] = []

    def keep(_module: Any, inputs: tuple[Tensor, ...]) -> None:
        query[:] = [inputs[0]]

    def multiply(_module: Any, inputs: tuple[Tensor, ...]) -> None:
        ranges.see(attention_scores(path), query.pop() @ inputs[0].transpose(-1, -2))

    return [
        attention.q_bmm_quantizer.register_forward_pre_hook(keep),
        attention.k_bmm_quantizer.register_forward_pre_hook(multiply),
    ]


def _output_hook(ranges: CarriedRanges, name: str) -> Any:
    def see(_module: Any, _inputs: Any, output: Tensor) -> None:
        ranges.see(name, output)

    return see


def _input_hook(ranges: CarriedRanges, name: str) -> Any:
    def see(_module: Any, inputs: tuple[Tensor, ...]) -> None:
        ranges.see(name, inputs[0])

    return see
