import importlib
import json
from functools import partial
from pathlib import Path

import pytest
from checkpoints import save_random_checkpoint

from calib_data.progress import SilentProgress
from deploy.engine.torch_graph import AS_WRITTEN
from deploy.engine.torch_session import TorchSession
from deploy.errors import BackendError
from export.recipe import PRESETS

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
ROWS = 16


@pytest.fixture
def accuracy(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("accuracy")


def fill(accuracy, checkpoint, folder, *more):
    arguments = ["--checkpoint", f"{checkpoint}:demo", "--json", str(folder / "accuracy.json")]
    arguments += ["--markdown", str(folder / "accuracy.md"), "--limit", str(ROWS)]
    options = accuracy.parse_options([*arguments, "--calib-samples", "16", *more])
    return accuracy.fill(options, SilentProgress())


def test_every_preset_gets_its_cell_and_a_second_run_evaluates_nothing(
    accuracy, tmp_path, monkeypatch
):
    model = save_random_checkpoint(tmp_path / "random")
    cells, failures = fill(accuracy, model, tmp_path)
    assert failures == []
    assert [cell["recipe"] or cell["precision"] for cell in cells] == ["fp32", "fp16", *PRESETS]
    for cell in cells:
        assert cell["n"] == ROWS
        assert cell["simulated"] == (cell["precision"] != "fp32")
        assert cell["seed"] == (0 if cell["recipe"] else None)
        if cell["precision"] == "fp32":
            continue
        drop = cell["compare"]["metric"]["accuracy"]
        assert drop["drop"] == pytest.approx(
            cells[0]["metrics"]["accuracy"] - cell["metrics"]["accuracy"]
        )
        assert drop["ci95"][0] <= drop["drop"] <= drop["ci95"][1]
        assert cell["compare"]["agreement"] == 1 - cell["compare"]["changed"] / ROWS
    written = (tmp_path / "accuracy.json").read_bytes()
    assert json.loads(written)["cells"] == cells
    markdown = (tmp_path / "accuracy.md").read_text()
    for name in ("fp32", "fp16", *PRESETS):
        assert f"\n| `{name}` | " in markdown

    monkeypatch.setattr(accuracy, "prepare", None)
    monkeypatch.setattr(accuracy, "run_job", None)
    monkeypatch.setattr(accuracy, "run_all", None)
    assert fill(accuracy, model, tmp_path) == (cells, [])
    assert (tmp_path / "accuracy.json").read_bytes() == written
    # What decides a cell's content decides whether it is known.
    with pytest.raises(TypeError):
        fill(accuracy, model, tmp_path, "--seeds", "0,1")
    with pytest.raises(TypeError):
        fill(accuracy, model, tmp_path, "--limit", "8")


def test_on_a_gpu_each_graph_is_held_against_its_simulation(accuracy, tmp_path, monkeypatch):
    gpu = importlib.import_module("accuracy_gpu")
    # torch runs on the CPU here, where it computes what onnxruntime does.
    monkeypatch.setattr(gpu, "gpu_targets", lambda: ("sm90",))
    monkeypatch.setattr(gpu, "gpu_lowering", lambda precision: AS_WRITTEN)
    monkeypatch.setattr(gpu, "TorchSession", partial(TorchSession, device="cpu"))
    model = save_random_checkpoint(tmp_path / "random")
    arguments = ("--backend", "torch", "--recipes", "fp8")
    cells, failures = fill(accuracy, model, tmp_path, *arguments)
    assert failures == []
    kinds = [(cell["precision"], cell["backend"], cell.get("variant")) for cell in cells]
    assert kinds == [
        ("fp32", "onnxruntime", None),
        ("fp16", "onnxruntime", None),
        ("fp16", "torch", ""),
        ("fp8", "onnxruntime", None),
        ("fp8", "torch", ""),
        ("fp8", "torch", "softmax in 16 bits"),
    ]
    for cell in cells:
        if cell["backend"] != "torch":
            assert "against_simulation" not in cell
            continue
        beside = cell["against_simulation"]
        # Nothing but the order of additions differs, which may tip a code or two.
        assert beside["logits_error"] < max(beside["quantization_effect"], 1e-3)
        assert beside["agreement"] == 1 - beside["changed"] / ROWS
    assert "against onnxruntime's simulation" in (tmp_path / "accuracy.md").read_text()

    monkeypatch.setattr(accuracy, "GpuBench", None)
    monkeypatch.setattr(accuracy, "prepare", None)
    assert fill(accuracy, model, tmp_path, *arguments) == (cells, [])


def test_without_a_gpu_there_is_nothing_to_execute_on(accuracy, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.import_module("accuracy_gpu"), "gpu_targets", tuple)
    model = save_random_checkpoint(tmp_path / "random")
    with pytest.raises(BackendError, match="no GPU is visible"):
        fill(accuracy, model, tmp_path, "--backend", "torch")


def test_summary_spans_the_seeds(accuracy):
    tables = importlib.import_module("accuracy_tables")

    def cell(recipe, seed, value, low, high):
        compared = {"drop": 0.9 - value, "relative_drop": 1 - value / 0.9, "ci95": [low, high]}
        return {
            "model": "m",
            "task": "t",
            "precision": "int8" if recipe else "fp32",
            "recipe": recipe,
            "backend": "onnxruntime",
            "seed": seed,
            "simulated": recipe is not None,
            "n": 100,
            "metrics": {"accuracy": value},
            "compare": recipe
            and {"metric": {"accuracy": compared}, "agreement": value, "changed": 3},
        }

    seeds = [cell("r", 0, 0.88, -0.01, 0.05), cell("r", 1, 0.86, 0.01, 0.07)]
    reference, row = tables.summarize([cell(None, None, 0.9, 0, 0), *seeds])
    assert reference["mean"] == 0.9
    assert "drop" not in reference
    assert (row["mean"], row["min"], row["max"]) == (pytest.approx(0.87), 0.86, 0.88)
    assert row["drop"] == pytest.approx(0.03)
    assert row["ci95"] == [-0.01, 0.07]
    assert row["seeds"] == [0, 1]


def test_several_cells_at_a_time_are_what_one_after_another_gives(accuracy, tmp_path):
    model = save_random_checkpoint(tmp_path / "random")

    def measured(folder, jobs):
        folder.mkdir()
        cells, failures = fill(accuracy, model, folder, "--recipes", "int8-naive", "--jobs", jobs)
        assert failures == []
        return [{**cell, "seconds": None} for cell in cells]

    assert measured(tmp_path / "two", "2") == measured(tmp_path / "one", "1")
