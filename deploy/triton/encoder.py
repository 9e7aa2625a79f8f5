"""The models of a build as a server sees them: tensors, shapes, and the file that holds them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from calib_data.errors import UsageError
from deploy.artifacts import BuildFolder, check_listed
from deploy.engine.builder import Flavour
from deploy.engine.plan import PlanInfo, read_plan_info
from deploy.engine.profiles import Profile, bucket_profiles
from deploy.engine.session import Backend, Precision
from deploy.errors import BuildFolderError, EngineError, PlanError
from deploy.evaluation.stage import model_hashes
from deploy.paths import inside
from deploy.triton.config import ServingBackend

_Read = Callable[[BuildFolder, Mapping[str, Any], Mapping[str, Any], Precision], "Encoder"]

# From the one that is built to be served to the one that all are held against.
_ORDER = (Precision.FP8, Precision.INT8, Precision.FP16, Precision.FP32)


@dataclass(frozen=True)
class TensorSpec:
    """An input or output, without the batch dimension.

    Attributes:
        name: As the graph has it.
        data_type: Triton's name of the type, such as "TYPE_INT64".
        dims: Sizes of the other dimensions; -1 for the sequence.
    """

    name: str
    data_type: str
    dims: tuple[int, ...]


@dataclass(frozen=True)
class Encoder:
    """A model that takes token ids.

    Attributes:
        precision: Of the model.
        backend: What executes it.
        files: What is served, by name within the version's folder; the model itself first.
        inputs: In the order of the graph.
        outputs: In the order of the graph.
        profiles: Shapes it takes, by ascending sequence; of a plan, by their indexes in it.
        facts: What an operator should know of it, by name.
        plan: The plan's sidecar; None of an ONNX model.
    """

    precision: Precision
    backend: ServingBackend
    files: Mapping[str, Path]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    profiles: tuple[Profile, ...]
    facts: Mapping[str, str]
    plan: PlanInfo | None

    @property
    def buckets(self) -> tuple[int, ...]:
        """Sequence lengths that it takes, in tokens, ascending."""
        return tuple(profile.max.sequence for profile in self.profiles)

    @property
    def max_batch(self) -> int:
        """Rows at most in a batch, whatever its bucket."""
        return min(profile.max.batch for profile in self.profiles)


def read_encoders(
    folder: BuildFolder,
    manifest: Mapping[str, Any],
    results: Mapping[str, Any],
    backend: ServingBackend,
    precisions: Sequence[Precision] | None,
) -> list[Encoder]:
    """Read what a build has for a backend, every file checked against the manifest.

    Args:
        folder: The build.
        manifest: Its manifest.
        results: Its results.
        backend: What is to execute the models.
        precisions: Those that are wanted; None for all there are.

    Raises:
        UsageError: A precision that was not built.
        EngineError: The build has no plan that Triton can load.
        PlanError: A plan is damaged or unknown to the manifest.
        BuildFolderError: An ONNX model is.
    """
    read: _Read
    if backend is ServingBackend.TENSORRT:
        plans = _plans(folder, results)
        available, read = set(plans), partial(_read_plan, plans)
    else:
        available, read = {Precision(name) for name in results["onnx"]}, _read_onnx
    for precision in precisions or ():
        if precision not in available:
            raise UsageError(
                f"'{folder.path}' has no {precision.value} model for {backend.value}",
                "use --precision with any of: "
                f"{', '.join(each.value for each in _ORDER if each in available)}",
            )
    chosen = precisions or [each for each in _ORDER if each in available]
    return [read(folder, manifest, results, precision) for precision in chosen]


def _plans(folder: BuildFolder, results: Mapping[str, Any]) -> dict[Precision, str]:
    """The target of each precision's plan, as far as Triton's TensorRT can load it."""
    engines = results["engines"]
    loadable = {
        Precision(engine["precision"]): str(engine["target"])
        for engine in engines
        if engine["flavour"] == Flavour.TENSORRT.value
    }
    if loadable:
        return loadable
    found = (
        f"the plans of '{folder.path}' are for {Flavour.TENSORRT_RTX.value}, which Triton has no "
        "backend for"
        if engines
        else f"'{folder.path}' has no plan"
    )
    raise EngineError(
        found,
        "build with --engine tensorrt on the GPU that is to serve, or let Triton's ONNX Runtime "
        "execute the ONNX models: --backend onnxruntime",
    )


def _read_plan(
    targets: Mapping[Precision, str],
    folder: BuildFolder,
    manifest: Mapping[str, Any],
    results: Mapping[str, Any],
    precision: Precision,
) -> Encoder:
    target = targets[precision]
    info = read_plan_info(folder, precision, target)
    if info.flavour is not Flavour.TENSORRT:
        raise PlanError(
            f"'{folder.plan(precision.value, target)}' was built by {info.flavour.value}, "
            "results.json says otherwise",
            "build it again",
        )
    _verified(folder, manifest, precision)
    # TensorRT takes the names and types of inputs and outputs over from the graph.
    inputs, outputs = _signature(folder.onnx(precision.value))
    return Encoder(
        precision=precision,
        backend=ServingBackend.TENSORRT,
        files={"model.plan": folder.plan(precision.value, target)},
        inputs=inputs,
        outputs=outputs,
        profiles=info.profiles,
        facts={
            **_facts(results, precision),
            "sha256": info.sha256,
            "tensorrt_version": info.tensorrt_version,
            "target": info.target,
            **({} if info.gpu is None else {"gpu": info.gpu}),
        },
        plan=info,
    )


def _read_onnx(
    folder: BuildFolder,
    manifest: Mapping[str, Any],
    results: Mapping[str, Any],
    precision: Precision,
) -> Encoder:
    hashes = _verified(folder, manifest, precision)
    inputs, outputs = _signature(folder.onnx(precision.value))
    model, *data = sorted(hashes)
    # The graph names its data's file, which therefore keeps its name.
    files = {
        "model.onnx": folder.path / model,
        **{Path(each).name: folder.path / each for each in data},
    }
    config = results["config"]
    return Encoder(
        precision=precision,
        backend=ServingBackend.ONNXRUNTIME,
        files=files,
        inputs=inputs,
        outputs=outputs,
        profiles=bucket_profiles(tuple(config["buckets"]), config["max_batch"]),
        facts={**_facts(results, precision), "sha256": hashes[model]},
        plan=None,
    )


def _verified(
    folder: BuildFolder, manifest: Mapping[str, Any], precision: Precision
) -> dict[str, str]:
    """SHA-256 of an ONNX model's files, every one as the manifest has it.

    Raises:
        BuildFolderError: One is missing or has changed, or the manifest lists none.
    """
    hashes = model_hashes(manifest, precision, Backend.ONNXRUNTIME)
    if not hashes:
        raise BuildFolderError(
            f"the manifest of '{folder.path}' lists no {precision.value} model", "build it again"
        )
    for name in hashes:
        check_listed(folder, manifest, inside(folder.path, name))
    return hashes


def _signature(path: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of an ONNX model."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    return tuple(map(_tensor, graph.input)), tuple(map(_tensor, graph.output))


def _tensor(value: Any) -> TensorSpec:
    import onnx

    declared = value.type.tensor_type
    element = onnx.TensorProto.DataType.Name(declared.elem_type)
    batch, *others = declared.shape.dim
    assert batch.dim_param  # every export has a dynamic batch
    return TensorSpec(
        name=value.name,
        data_type=_DATA_TYPES[element],
        dims=tuple(-1 if each.dim_param else each.dim_value for each in others),
    )


# ONNX's names of the types that inputs and outputs of an encoder have, and Triton's.
_DATA_TYPES = {
    "INT32": "TYPE_INT32",
    "INT64": "TYPE_INT64",
    "FLOAT": "TYPE_FP32",
    "FLOAT16": "TYPE_FP16",
    "BFLOAT16": "TYPE_BF16",
}


def _facts(results: Mapping[str, Any], precision: Precision) -> dict[str, str]:
    recipe = results["recipes"].get(precision.value)
    return {
        "model": str(results["model"]),
        "task": str(results["task"]),
        "precision": precision.value,
        **({} if recipe is None else {"recipe": str(recipe["name"])}),
    }
