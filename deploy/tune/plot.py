"""sensitivity.svg: what each unit costs and what it saves."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

_QUANTIZED, _FALLBACK, _BENEFIT = "#4477aa", "#cc3311", "#999999"
_ROW = 0.2  # inches


def plot_sensitivity(results: Mapping[str, Any]) -> str:
    """Draw the units of tune.json in the order of the search.

    Returns:
        An SVG document, the same for the same results.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    units = results["units"]
    places = range(len(units))
    high = results["config"]["high_precision"]
    colors = [_QUANTIZED if unit["quantized"] else _FALLBACK for unit in units]
    # Text stays text, and ids stay the same from one run to the next.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "sensitivity", "font.size": 8}):
        figure = Figure(figsize=(7.5, 1.7 + _ROW * len(units)), layout="constrained")
        damage, benefit = figure.subplots(1, 2, sharey=True, width_ratios=(2, 1))
        damage.barh(places, [100 * unit["damage_share"] for unit in units], color=colors)
        damage.set_yticks(places, [unit["name"] for unit in units])
        damage.invert_yaxis()
        damage.margins(y=0.01)
        damage.set_xlabel("damage: % of the squared error of the outputs")
        benefit.barh(places, [1e6 * unit["benefit_seconds"] for unit in units], color=_BENEFIT)
        benefit.set_xlabel(f"µs saved, {results['benefit']['kind']}")
        for axes in (damage, benefit):
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(axis="y", length=0)
            axes.grid(axis="x", linewidth=0.4)
            axes.set_axisbelow(True)
        handles = [Patch(color=_QUANTIZED, label=f"stays in {results['precision']}")]
        if results["fallbacks"]:
            handles.append(Patch(color=_FALLBACK, label=f"back in {high}"))
        damage.legend(handles=handles, loc="lower right")
        model = results["model"].rstrip("/").rpartition("/")[2]
        figure.suptitle(
            f"{model} on {results['task']}, recipe {results['base']['name']}: "
            "units, most damage per benefit first"
        )
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
