"""What a layer report says, as one plain object that tables and `--json` are made from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from deploy.engine.expected import ExpectedFusion
from deploy.engine.fusion import (
    MULTIPLYING_TYPES,
    find_kernel,
    fusion_by_profile,
    fusion_to_dict,
)
from deploy.engine.layer_report import LayerReport
from deploy.engine.layers import Layer, split_profiles

# `export.qdq` names the nodes of a site after it.
_QDQ = (".QuantizeLinear", ".DequantizeLinear")


def summarize(report: LayerReport) -> dict[str, Any]:
    """Sum a report up, profile by profile.

    Returns:
        `precision`, `target`, `flavour`, `version` and `profiles`; each profile with its `index`
        and shapes, the counts of results.json and `unfused` (null where nothing is known to be
        expected), `operations` (linears and attentions of the encoder), `elsewhere` (GEMMs outside
        of it), `types` (how many layers of a kind there are) and `listing` (every layer).

    Raises:
        EngineError: The layers cannot be divided among the profiles.
    """
    modules = _modules(report.expected)
    return {
        "precision": report.precision,
        "target": report.target,
        "flavour": report.flavour,
        "version": report.version,
        "profiles": [
            {
                "index": index,
                **asdict(profile),
                "layers": len(layers),
                **fusion,
                "operations": _operations(layers, report.expected),
                "elsewhere": [
                    _listed(layer, modules)
                    for layer in layers
                    if layer.type in MULTIPLYING_TYPES and not layer.onnx_nodes & modules.keys()
                ],
                "types": _types(layers),
                "listing": [_listed(layer, modules) for layer in layers],
            }
            for index, (profile, layers, fusion) in enumerate(
                zip(
                    report.profiles,
                    split_profiles(report.layers, len(report.profiles)),
                    _fusion(report),
                    strict=True,
                )
            )
        ],
    }


def _fusion(report: LayerReport) -> list[dict[str, Any]]:
    if report.expected is None:
        names = ("quantized_gemms", "expected_gemms", "fused_attention", "expected_attention")
        return [dict.fromkeys((*names, "unfused"))] * len(report.profiles)
    found = fusion_by_profile(report.layers, report.expected, report.profiles, report.target)
    return [fusion_to_dict(each) for each in found]


def _operations(layers: Sequence[Layer], expected: ExpectedFusion | None) -> list[dict[str, Any]]:
    operations = () if expected is None else expected.operations
    found = [find_kernel(layers, operation) for operation in operations]
    kernels = Counter(each.layer for each in found)
    return [
        {
            "module": each.operation.module,
            "layer": each.operation.layer,
            "role": each.operation.role,
            "precision": each.precision,
            "fused": each.fused,
            "merged": each.layer is not None and kernels[each.layer] > 1,
        }
        for each in found
    ]


def _types(layers: Sequence[Layer]) -> list[dict[str, Any]]:
    counts = Counter((layer.type, _first(layer.inputs), _first(layer.outputs)) for layer in layers)
    return [
        {"type": kind, "input": read, "output": written, "count": count}
        for (kind, read, written), count in counts.most_common()
    ]


def _first(datatypes: Sequence[str]) -> str:
    return datatypes[0] if datatypes else ""


def _listed(layer: Layer, modules: Mapping[str, str]) -> dict[str, Any]:
    names = sorted(layer.onnx_nodes)
    return {
        "name": layer.name,
        "type": layer.type,
        "inputs": list(layer.inputs),
        "constants": list(layer.constants),
        "outputs": list(layer.outputs),
        "modules": sorted({modules[name] for name in names if name in modules}),
        "sites": sorted({name.rpartition(".")[0] for name in names if name.endswith(_QDQ)}),
        "onnx_nodes": names,
    }


def _modules(expected: ExpectedFusion | None) -> dict[str, str]:
    """The encoder's modules, by the names of their MatMuls."""
    operations = () if expected is None else expected.operations
    return {name: operation.module for operation in operations for name in operation.matmuls}
