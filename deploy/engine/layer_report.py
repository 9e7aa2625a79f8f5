"""The layers of a plan in a file beside it, with what they are to be held against.

The file is JSON with one layer a line, so that two builds can be compared by `diff`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.artifacts import read_json
from deploy.engine.builder import BuiltEngine, EngineSpec, Flavour
from deploy.engine.expected import ExpectedFusion, Operation, expected_fusion
from deploy.engine.inspector import inspect_plan
from deploy.engine.layers import Layer, parse_layers
from deploy.engine.profiles import Profile, Shape
from deploy.errors import BuildFolderError
from deploy.structure import count, mapping, optional, record, sequence, some, text
from export.errors import ExportError

if TYPE_CHECKING:
    import onnx_ir as ir

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class LayerReport:
    """What a builder made of a graph.

    Attributes:
        precision: Of the model; None where it is not a build's.
        target: Compute capability that was built for.
        flavour: Which TensorRT built it.
        version: Version of that TensorRT.
        profiles: Optimization profiles, by their indexes.
        expected: What the graph promised; None of a graph that this toolchain did not export.
        layers: Layers of all profiles, in order.
    """

    precision: str | None
    target: str
    flavour: str
    version: str
    profiles: tuple[Profile, ...]
    expected: ExpectedFusion | None
    layers: tuple[Layer, ...]


def report_build(
    spec: EngineSpec, built: BuiltEngine, target: str, precision: str | None, model: ir.Model
) -> LayerReport:
    """Report the layers of an engine that this process has built.

    Args:
        spec: What was built.
        built: The plan and its log.
        target: Name of what it was built for.
        precision: Of the model; None where it is not a build's.
        model: The graph that was built.

    Raises:
        EngineError: Neither the log nor the plan tells the layers.
    """
    layers = parse_layers(built.log)
    if not layers and spec.flavour is Flavour.TENSORRT:  # whose GPU is here, or it had not built
        layers = inspect_plan(built.plan, spec.flavour)
    return LayerReport(
        precision=precision,
        target=target,
        flavour=spec.flavour.value,
        version=built.version,
        profiles=spec.profiles,
        expected=_expected(model),
        layers=layers,
    )


def _expected(model: ir.Model) -> ExpectedFusion | None:
    try:
        return expected_fusion(model)
    except ExportError:  # somebody else's model, without names of modules
        return None


def report_to_json(report: LayerReport) -> str:
    """Write a report as versioned JSON, one layer and one operation a line."""
    expected = report.expected
    head = {
        "schema_version": SCHEMA_VERSION,
        "precision": report.precision,
        "target": report.target,
        "flavour": report.flavour,
        "version": report.version,
    }
    lists: dict[str, Iterable[Any] | None] = {
        "profiles": map(asdict, report.profiles),
        "linears": None if expected is None else map(asdict, expected.linears),
        "attentions": None if expected is None else map(asdict, expected.attentions),
        "layers": map(_layer_to_dict, report.layers),
    }
    fields = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    fields += [f"  {json.dumps(key)}: {_lines(items)}" for key, items in lists.items()]
    return "{\n" + ",\n".join(fields) + "\n}\n"


def read_report(path: Path) -> LayerReport:
    """Read a report.

    Raises:
        BuildFolderError: The file is missing, or is not a report of this version.
    """
    content = read_json(path)
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise BuildFolderError(
            f"'{path}' has schema version {version}, not {SCHEMA_VERSION}",
            "build it again with this version of `deploy build`",
        )
    try:
        _STRUCTURE(content, "")
        return _report(content)
    except (TypeError, ValueError) as error:
        raise BuildFolderError(
            f"'{path}' is not a layer report: {error}",
            "build it again with `deploy build`",
        ) from error


_SHAPE = record({"batch": some, "sequence": some})

_OPERATION = record(
    {
        "module": text,
        "layer": count,
        "role": text,
        "operands": mapping(optional(text)),
        "carried": text,
    },
    {"head_dim": optional(some), "heads": optional(some)},
)

_STRUCTURE = record(
    {
        "precision": optional(text),
        "target": text,
        "flavour": text,
        "version": text,
        "profiles": sequence(record({"min": _SHAPE, "opt": _SHAPE, "max": _SHAPE}), least=1),
        "linears": optional(sequence(_OPERATION)),
        "attentions": optional(sequence(_OPERATION)),
        "layers": sequence(
            record(
                {
                    "name": text,
                    "type": text,
                    "region": optional(count),
                    "profile": optional(count),
                    **dict.fromkeys(
                        ("inputs", "constants", "outputs", "onnx_nodes"), sequence(text)
                    ),
                }
            )
        ),
    }
)


def _lines(items: Iterable[Any] | None) -> str:
    if items is None:
        return "null"
    return "[" + ",".join(f"\n    {json.dumps(item)}" for item in items) + "\n  ]"


def _layer_to_dict(layer: Layer) -> dict[str, Any]:
    return {**asdict(layer), "onnx_nodes": sorted(layer.onnx_nodes)}


def _report(content: Mapping[str, Any]) -> LayerReport:
    expected = None
    if content["linears"] is not None and content["attentions"] is not None:
        expected = ExpectedFusion(
            linears=tuple(Operation(**each) for each in content["linears"]),
            attentions=tuple(Operation(**each) for each in content["attentions"]),
        )
    return LayerReport(
        precision=content["precision"],
        target=content["target"],
        flavour=content["flavour"],
        version=content["version"],
        profiles=tuple(
            Profile(*(Shape(**profile[name]) for name in ("min", "opt", "max")))
            for profile in content["profiles"]
        ),
        expected=expected,
        layers=tuple(_layer(each) for each in content["layers"]),
    )


def _layer(plain: Mapping[str, Any]) -> Layer:
    return Layer(
        **{
            **plain,
            **{name: tuple(plain[name]) for name in ("inputs", "constants", "outputs")},
            "onnx_nodes": frozenset(plain["onnx_nodes"]),
        }
    )
