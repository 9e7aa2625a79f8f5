"""Small models, exported and quantized as a build does it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from checkpoints import VOCABULARY, save_random_checkpoint

from calib_data.features import Features
from calib_data.sampler import CalibrationSet, fingerprint
from calib_data.tasks import Head, get_task
from export.calibrate import calibrate
from export.calibration_table import CalibrationTable
from export.checkpoint import load_checkpoint
from export.onnx_export import export_onnx
from export.onnx_file import read_onnx, write_onnx
from export.precision import FloatType, cast_floats
from export.qdq import insert_qdq
from export.recipe import QuantRecipe
from export.wide import wide_values

TASK = get_task("sst2")


@dataclass(frozen=True)
class Exported:
    """A model as FP32 ONNX, and its calibration."""

    folder: Path
    table: CalibrationTable

    def __getitem__(self, name: str) -> Path:
        return self.folder / f"{name}.onnx"

    def derive(
        self,
        name: str,
        recipe: QuantRecipe | None = None,
        carried: FloatType = FloatType.FP16,
        wide: dict[str, float] | None = None,
    ) -> Path:
        """Write a lower precision under a name; `wide` are tensors that outgrow FP16."""
        model = read_onnx(self["fp32"])
        if recipe is not None:
            insert_qdq(model, recipe, self.table, carried)
        cast_floats(model, carried, wide_values(model, wide or {}, carried))
        write_onnx(model, self[name])
        return self[name]


def export_random(folder: Path, **sizes: Any) -> Exported:
    """Export and calibrate a checkpoint of `save_random_checkpoint`, on a few random rows."""
    return export_checkpoint(save_random_checkpoint(folder, **sizes), folder)


def export_checkpoint(source: Path, folder: Path) -> Exported:
    """Export and calibrate a checkpoint on a few random rows."""
    checkpoint = load_checkpoint(str(source), TASK)
    write_onnx(export_onnx(checkpoint, Head.SEQUENCE_CLASSIFICATION), folder / "fp32.onnx")
    rng = np.random.default_rng(0)
    ids = tuple(rng.integers(4, VOCABULARY, 20) for _ in range(8))
    features = Features(ids, tuple(np.zeros_like(row) for row in ids), np.arange(8), ())
    table = calibrate(checkpoint, TASK, CalibrationSet(features, 0, fingerprint(features)))
    return Exported(folder, table)


def strip_qdq(path: Path, name: str, *sites: str) -> Path:
    """Write a copy in which some sites are not quantized, as no recipe would leave it."""
    model = read_onnx(path)
    nodes = {node.name: node for node in model.graph}
    for site in sites:
        dequantize = nodes[f"{site}.DequantizeLinear"]
        quantize = nodes.get(f"{site}.QuantizeLinear")
        if quantize is not None:
            original = quantize.inputs[0]
        else:
            codes, scale = (value.const_value.numpy() for value in dequantize.inputs[:2])
            weight = codes.astype(scale.dtype) * scale
            original = ir.Value(
                name=f"{site}.original",
                const_value=ir.tensor(weight),
                shape=ir.Shape(weight.shape),
                type=ir.TensorType(ir.DataType.from_numpy(weight.dtype)),
            )
            model.graph.register_initializer(original)
        for use in list(dequantize.outputs[0].uses()):
            use.node.replace_input_with(use.idx, original)
        model.graph.remove(dequantize)
        if quantize is not None:
            model.graph.remove(quantize)
    stripped = path.with_name(f"{name}.onnx")
    write_onnx(model, stripped)
    return stripped
