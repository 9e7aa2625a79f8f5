"""Find out, without a GPU and before one is rented, whether TensorRT takes an ONNX model.

TensorRT for RTX compiles for compute capabilities that are not there. Its parser is TensorRT's own;
its kernels for RTX GPUs are not those of a datacenter GPU, whose report is made when it builds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from calib_data.progress import Progress
from deploy.engine.builder import EngineSpec, Flavour, build_engine
from deploy.engine.layer_report import LayerReport, report_build
from deploy.engine.profiles import Profile
from deploy.errors import EngineError
from export.onnx_file import read_onnx

if TYPE_CHECKING:
    import onnx_ir as ir

_AXES = ("batch", "sequence")

# "TensorRT supports ONNX graphs generated with at least opset 7", its parser warns.
_OLDEST_OPSET = 7


def read_model(onnx: Path, profiles: Sequence[Profile]) -> ir.Model:
    """Read a model, and refuse what a builder would only stumble over.

    Raises:
        ExportError: The file is missing, is not ONNX, or its weights are not whole.
        EngineError: It is empty, of an unknown opset, or has inputs other than [batch, sequence].
    """
    model = read_onnx(onnx)
    if not model.graph.outputs:
        raise EngineError(f"'{onnx}' holds no graph with outputs", "export the model again")
    _check_opset(onnx, model)
    for value in model.graph.inputs:
        if not value.is_initializer():
            _check_input(value, profiles)
    return model


def check_target(
    onnx: Path,
    model: ir.Model,
    profiles: tuple[Profile, ...],
    target: str,
    progress: Progress,
) -> LayerReport:
    """Build a model in memory, for one compute capability.

    Args:
        onnx: The file.
        model: Its content, from `read_model`.
        profiles: Optimization profiles.
        target: Compute capability such as "sm89".
        progress: Shown how far the build is.

    Raises:
        EngineError: The parser or the builder refuses it.
    """
    spec = EngineSpec(onnx=onnx, flavour=Flavour.TENSORRT_RTX, profiles=profiles, target=target)
    return report_build(spec, build_engine(spec, progress), target, None, model)


def _check_opset(onnx: Path, model: ir.Model) -> None:
    from onnx.defs import onnx_opset_version

    opset = model.opset_imports.get("")
    newest = onnx_opset_version()
    # TensorRT's parser takes any number, and reads operators as it knows them.
    if opset is None or not _OLDEST_OPSET <= opset <= newest:
        raise EngineError(
            f"'{onnx}' is of ONNX opset {opset}, not {_OLDEST_OPSET} to {newest}",
            "export the model with a released opset, such as 20",
        )


def _check_input(value: ir.Value, profiles: Sequence[Profile]) -> None:
    shape = value.shape
    if shape is None or len(shape) != len(_AXES):
        described = "of unknown rank" if shape is None else f"{[str(dim) for dim in shape]}"
        raise EngineError(
            f"input '{value.name}' is {described}: profiles give shapes to [batch, sequence] alone",
            "check a model whose inputs are token ids, or fix the other dimensions at export",
        )
    for axis, (name, dim) in enumerate(zip(_AXES, shape, strict=True)):
        if not isinstance(dim, int):
            continue
        for profile in profiles:
            for each in (profile.min, profile.opt, profile.max):
                if (each.batch, each.sequence)[axis] != dim:
                    raise EngineError(
                        f"input '{value.name}' has a fixed {name} of {dim}, and a profile asks for "
                        f"{(each.batch, each.sequence)[axis]}",
                        f"export it with a dynamic {name}"
                        + (f", or give --buckets {dim}" if name == "sequence" else ""),
                    )
