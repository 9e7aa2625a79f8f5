import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from export.errors import PrecisionError
from export.onnx_file import check_onnx, write_onnx
from export.precision import FloatType, cast_floats


def types(model: ir.Model) -> set[str]:
    return {value.dtype.name for value in model.graph.initializers.values()}


@pytest.mark.parametrize("target", [FloatType.FP16, FloatType.BF16])
def test_everything_but_the_output_changes_type(exported, target, tmp_path):
    model = exported.graph()
    cast_floats(model, target)
    assert types(model) == {target.onnx.name, "INT64"}
    assert [value.dtype.name for value in model.graph.outputs] == ["FLOAT"]
    assert [value.name for value in model.graph.outputs] == ["logits"]
    write_onnx(model, tmp_path / "model.onnx")
    check_onnx(tmp_path / "model.onnx")


def test_back_in_fp32_only_the_rounding_of_the_constants_is_left(exported, tmp_path):
    model = exported.graph()
    cast_floats(model, FloatType.FP16)
    cast_floats(model, FloatType.FP32)
    assert types(model) == {"FLOAT", "INT64"}
    original = exported.graph()
    for name, value in model.graph.initializers.items():
        before = original.graph.initializers[name].const_value.numpy()
        after = value.const_value.numpy()
        if before.dtype == np.float32:
            np.testing.assert_array_equal(after, before.astype(np.float16).astype(np.float32))
    write_onnx(model, tmp_path / "twin.onnx")
    onnxruntime.InferenceSession(str(tmp_path / "twin.onnx"), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("value", [70_000.0, float("inf"), float("nan")])
def test_weight_that_fp16_cannot_hold(exported, value):
    model = exported.graph()
    bias = model.graph.initializers["bert.encoder.layer.0.output.dense.bias"]
    weights = bias.const_value.numpy().copy()
    weights[0] = value
    bias.const_value = ir.tensor(weights)
    with pytest.raises(PrecisionError, match=r"layer\.0\.output\.dense\.bias") as error:
        cast_floats(model, FloatType.FP16)
    assert "bf16" in error.value.remedy
