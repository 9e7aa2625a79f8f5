import importlib
from functools import partial
from pathlib import Path

import pytest

from calib_data.progress import SilentProgress

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def speed(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("quantize_speed")


def test_ours_only_measures_every_count_in_a_process_of_its_own(speed, tmp_path, monkeypatch):
    arguments = ["--ours-only", "--layers", "2", "--tokens", "16", "--batch", "4"]
    options = speed.parse_options([*arguments, "--samples", "4,24"])
    small = partial(speed.save_random_bert, hidden=64)
    monkeypatch.setattr(speed, "save_random_bert", small)
    fresh = speed.in_fresh_process
    # Not measured, so it may as well be spared the imports.
    monkeypatch.setattr(
        speed,
        "in_fresh_process",
        lambda f, *args: f(*args) if f is speed.prepare else fresh(f, *args),
    )
    runs = speed.measure(tmp_path, options, None, SilentProgress())
    assert [run.samples for run in runs] == [4, 24]
    for run in runs:
        # Two layers: four activations of linears each, and q, k, p and v.
        assert run.quantize_linears == 2 * 8
        assert 0 < run.start_mb < run.peak_mb
        assert run.seconds == pytest.approx(sum(run.stages.values()))
        assert run.seconds < run.process_seconds
    found = speed.report(options, runs)
    assert found["ratios"] == []
    # The count alone must not matter; the specification allows a tenth.
    assert found["growth"]["this project"] == pytest.approx(1.0, abs=0.1)
    *_, last = speed._tables(found, runs)
    assert last.startswith("this project: peak memory of 24 samples is ")


def test_ratios_are_theirs_over_ours(speed):
    ours = speed.Run("this project", 8, 4, 2.0, 4.0, 1.0, 100.0, 16, 1.0, {})
    theirs = speed.Run("modelopt.onnx", 8, 1, 20.0, 10.0, 1.0, 250.0, 26, 1.0, {})
    expected = {
        "samples": 8,
        "modelopt_batch": 1,
        "seconds": 10.0,
        "process_seconds": 2.5,
        "peak_memory": 2.5,
    }
    assert speed.ratios([ours, theirs]) == [expected]
    assert speed.growth([ours, theirs]) == {}


def test_the_other_environment_needs_no_gpu(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    names = importlib.import_module("modelopt_environment").requirements()
    assert names[0].startswith("nvidia-modelopt==")
    assert any(name.startswith("onnxruntime~=") for name in names)
    assert not any("gpu" in name or "cupy" in name for name in names)
