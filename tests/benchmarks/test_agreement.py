import importlib
from pathlib import Path

import numpy as np
import pytest
from checkpoints import save_random_checkpoint

from calib_data.progress import SilentProgress
from calib_data.tasks import Head, get_task
from export.checkpoint import load_checkpoint
from export.onnx_export import export_onnx
from export.onnx_file import read_onnx, write_onnx

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def agreement(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("agreement")


def weights(path):
    return {
        name: value.const_value.numpy()
        for name, value in read_onnx(path).graph.initializers.items()
        if value.const_value is not None
    }


@pytest.mark.parametrize("share", [0.0, 2.0**-12])
def test_one_vector_moves_by_no_more_than_its_share(agreement, tmp_path, share):
    checkpoint = load_checkpoint(str(save_random_checkpoint(tmp_path / "model")), get_task("demo"))
    before, after = tmp_path / "before.onnx", tmp_path / "after.onnx"
    write_onnx(export_onnx(checkpoint, Head.SEQUENCE_CLASSIFICATION), before)
    agreement.disturb(before, after, share)
    old, new = weights(before), weights(after)
    (moved,) = [name for name in old if not np.array_equal(old[name], new[name])]
    assert (old[moved] != new[moved]).all()
    change = np.abs(new[moved].astype(np.float64) / old[moved] - 1)
    assert change.max() <= max(share, 2.0**-23) * 1.001  # FP32 rounds what it keeps of it


def test_a_graph_without_8_bit_codes_hardly_moves(agreement, tmp_path):
    model = save_random_checkpoint(tmp_path / "model")
    arguments = ["--checkpoint", f"{model}:demo", "--limit", "32", "--calib-samples", "16"]
    options = agreement.parse_options([*arguments, "--json", str(tmp_path / "agreement.json")])
    cells = agreement.measure(options, SilentProgress())
    assert [cell["graph"] for cell in cells] == [
        each for each in ("fp16", "fp8", "int8") for _ in range(3)
    ]
    exact = 0.0
    for cell in cells:
        assert cell["n"] == 32
        moved = "FP16" in cell["way"]
        if cell["graph"] == "fp16":
            # Two layers and FP32 arithmetic: the logits move about as much as the weights do.
            assert cell["logits_error"] <= (1e-3 if moved else 1e-5)
            assert cell["agreement"] == 1
            exact = cell["logits_error"] if moved else exact
        elif moved:
            # Codes that fall to the other side of a boundary move by a whole step.
            assert cell["logits_error"] > 3 * exact
