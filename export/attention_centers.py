"""The centers that attention's k and v are best quantized relative to, found on one batch.

Any center leaves the function exact (`export.rules.center_attention`), so one batch tells enough.
k's is its mean. v's is its mean in the heads that gain by it, and 0 in the others. A head that
spreads its attention over a long row gains: an INT8 softmax drops most of what it adds up, which is
near v's mean. A head that parks its attention on a separator loses: the separator's v is near 0,
which any scale holds exactly, and near 0 it should stay. So both are tried, head by head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from export.sites import LayerNames, SiteKind

if TYPE_CHECKING:
    from torch import Tensor

    from export.range_calibrator import RealTokens

_INT8_MAX = 127.0


@contextmanager
def find_centers(
    model: Any, layers: Sequence[LayerNames], real: RealTokens
) -> Iterator[dict[str, Tensor]]:
    """Watch one batch go through the model, and collect the centers of k, v and PV.

    Args:
        model: The torch model with ModelOpt's quantizers, which show q, k and v.
        layers: As `layer_names` gives them.
        real: Which tokens of the batch are not padding.

    Yields:
        Site name to its center, float32 [hidden]; filled by the batch.
    """
    centers: dict[str, Tensor] = {}
    hooks = [hook for layer in layers for hook in _watch(centers, model, layer, real)]
    try:
        yield centers
    finally:
        for hook in hooks:
            hook.remove()


def _watch(
    centers: dict[str, Tensor], model: Any, layer: LayerNames, real: RealTokens
) -> list[Any]:
    attention = model.get_submodule(layer.attention)
    seen: dict[str, Tensor] = {}

    def see_q(_module: Any, inputs: tuple[Tensor, ...]) -> None:
        seen["q"] = inputs[0]

    def see_k(_module: Any, inputs: tuple[Tensor, ...]) -> None:
        seen["k"] = inputs[0]
        tokens = real.select(inputs[0], SiteKind.ATTENTION_K)
        centers[layer.k_site] = tokens.flatten(1).double().mean(dim=0).float()

    def see_v(_module: Any, inputs: tuple[Tensor, ...]) -> None:
        v = inputs[0]
        tokens = real.select(v, SiteKind.ATTENTION_V)
        mean = tokens.double().mean(dim=0).float()  # [heads, head_dim]
        mask = real.mask(v.shape[0], v.shape[2], v.device)
        gains = heads_that_gain(seen.pop("q"), seen.pop("k"), v, mean, mask)
        # What moves v moves PV, whose rows are averages of v.
        centers[layer.v_site] = centers[layer.context_site] = (mean * gains[:, None]).flatten()

    return [
        attention.q_bmm_quantizer.register_forward_pre_hook(see_q),
        attention.k_bmm_quantizer.register_forward_pre_hook(see_k),
        attention.v_bmm_quantizer.register_forward_pre_hook(see_v),
    ]


def heads_that_gain(q: Tensor, k: Tensor, v: Tensor, center: Tensor, mask: Tensor) -> Tensor:
    """Which heads' PV comes out nearer to the exact one in INT8 when v is centered.

    Args:
        q: Queries, scaled already, [batch, heads, sequence, head_dim].
        k: Keys, of the same shape.
        v: Values, of the same shape.
        center: [heads, head_dim].
        mask: Real tokens, bool [batch, sequence].

    Returns:
        Bool [heads].
    """
    import torch

    errors = torch.zeros(2, v.shape[1], dtype=torch.float64, device=v.device)
    shift = center[:, None, :]
    # One scale for both, so that they differ by what the center does and by nothing else.
    scale = v.transpose(1, 2)[mask].abs().max() / _INT8_MAX
    for row in range(v.shape[0]):  # row by row: P is the largest tensor of all
        real = mask[row].nonzero().squeeze(1)
        row_q, row_k, row_v = (each[row].index_select(1, real) for each in (q, k, v))
        p = torch.softmax(row_q @ row_k.transpose(-1, -2), dim=-1)
        exact = p @ row_v
        codes = torch.round(p * _INT8_MAX) / _INT8_MAX
        plain = codes @ (torch.round(row_v / scale) * scale)
        centered = codes @ (torch.round((row_v - shift) / scale) * scale) + shift
        for index, result in enumerate((plain, centered)):
            errors[index] += (result - exact).double().square().sum(dim=(1, 2))
    return errors[1] < errors[0]
