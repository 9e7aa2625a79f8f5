"""Units: the smallest parts of an encoder that can return to high precision alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from glob import escape

from export.architectures import Architecture
from export.recipe import FREE_KINDS, QuantRecipe, select_sites
from export.sites import Site, SiteKind


@dataclass(frozen=True)
class Unit:
    """Sites that are quantized together or not at all.

    Attributes:
        layer: Index of the encoder layer.
        role: What the sites are to the layer, for example "qkv" or "ffn out".
        sites: Its sites, in order of execution.
    """

    layer: int
    role: str
    sites: tuple[Site, ...]

    @property
    def name(self) -> str:
        """Unique within an encoder, for example "3 ffn out"."""
        return f"{self.layer} {self.role}"

    @property
    def modules(self) -> frozenset[str]:
        """Torch module paths that its sites feed."""
        return frozenset(module for site in self.sites for module in site.modules)


def find_units(
    recipe: QuantRecipe, sites: Iterable[Site], architecture: Architecture
) -> tuple[Unit, ...]:
    """Divide what a recipe quantizes into units.

    Sites that feed one module belong together, and so do those that are tied by a third: that is
    what `select_sites` demands of exclusions. It joins query, key and value by the input they
    share, and q, k, p and v by the attention that multiplies them. Residuals and GELU inputs are
    units of their own.

    Args:
        recipe: What it excludes belongs to no unit.
        sites: All sites of the encoder, as `encoder_sites` enumerates them.
        architecture: Of the encoder; gives the units their names.

    Raises:
        RecipeError: The recipe's exclusions do not fit the sites.
    """
    groups: list[list[Site]] = []
    for site in select_sites(recipe, sites):
        tied = [group for group in groups if any(_tied(site, other) for other in group)]
        groups = [group for group in groups if group not in tied]
        groups.append([member for group in tied for member in group] + [site])
    return tuple(_unit(group, architecture) for group in groups)


def with_fallbacks(recipe: QuantRecipe, fallbacks: Iterable[Unit], name: str) -> QuantRecipe:
    """The recipe, with some units left in high precision."""
    names = tuple(escape(site.name) for unit in fallbacks for site in unit.sites)
    return replace(recipe, name=name, exclude=(*recipe.exclude, *names))


def _tied(left: Site, right: Site) -> bool:
    if FREE_KINDS & {left.kind, right.kind}:
        return False
    return not set(left.modules).isdisjoint(right.modules)


def _unit(sites: Sequence[Site], architecture: Architecture) -> Unit:
    layer = sites[0].layer
    prefix = architecture.layer.format(layer) + "."
    roles = {
        frozenset({architecture.query, architecture.key, architecture.value}): "qkv",
        frozenset({architecture.attention}): "attention",
        frozenset({architecture.attention_output}): "attention out",
        frozenset({architecture.ffn_in}): "ffn in",
        frozenset({architecture.ffn_out}): "ffn out",
    }
    paths = frozenset(module.removeprefix(prefix) for site in sites for module in site.modules)
    role = roles[paths]
    if sites[0].kind in FREE_KINDS:
        role += " gelu" if sites[0].kind is SiteKind.GELU_INPUT else " residual"
    return Unit(layer, role, tuple(sites))
