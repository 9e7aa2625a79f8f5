"""Quantize: FP32 ONNX and calibration -> the ONNX of another precision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from deploy.artifacts import BuildFolder
from deploy.config import BuildConfig
from deploy.engine.session import Precision
from deploy.stages.keys import hashes_of, stage_key, versions_of
from deploy.stages.record import Files
from deploy.stages.run import Made, Stage
from export.calibration_table import CalibrationTable
from export.onnx_file import check_onnx, model_files, read_onnx, write_onnx
from export.precision import FloatType, cast_floats
from export.qdq import insert_qdq
from export.recipe import QuantRecipe, recipe_to_dict
from export.wide import wide_values

QUANTIZE = "quantize"


def quantize_stage(
    config: BuildConfig,
    folder: BuildFolder,
    precision: Precision,
    files: Files,
    table: Callable[[FloatType], CalibrationTable],
) -> Stage:
    """The model of one precision.

    Args:
        config: What is built.
        folder: Where.
        precision: Any but FP32.
        files: Of the build, export and calibration among them.
        table: Gives the calibration, told which type is to carry what is not quantized.
    """
    recipe = config.recipe_for(precision) if precision.quantized else None
    carried = config.high_precision if precision.quantized else FloatType.FP16
    path = folder.onnx(precision.value)
    fp32 = folder.onnx(Precision.FP32.value)

    def work() -> Made:
        write_precision(fp32, path, recipe, table(carried), carried)
        check_onnx(path)
        return Made(model_files(path))

    name = f"{QUANTIZE}.{precision.value}"
    return Stage(
        name=name,
        key=stage_key(
            name,
            inputs=hashes_of(files, map(folder.name, (fp32, folder.calibration))),
            recipe=None if recipe is None else recipe_to_dict(recipe),
            carried=carried.value,
            versions=versions_of("nvidia-modelopt", "onnx", "onnx-ir"),
        ),
        work=work,
        doing=f"Making {precision.value} of fp32",
    )


def write_precision(
    fp32: Path, path: Path, recipe: QuantRecipe | None, table: CalibrationTable, carried: FloatType
) -> None:
    """Derive a model of lower precision from the FP32 one.

    Args:
        fp32: The model as `export_onnx` made it.
        path: Where the new one goes.
        recipe: Which sites are quantized, and how; None for nothing.
        table: Calibration of the same checkpoint.
        carried: Type of scales and of everything that is not quantized.
    """
    model = read_onnx(fp32)
    if recipe is not None:
        insert_qdq(model, recipe, table, carried)
    cast_floats(model, carried, wide_values(model, table.carried, carried))
    write_onnx(model, path)
