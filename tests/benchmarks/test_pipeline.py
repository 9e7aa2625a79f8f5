import importlib
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("pipeline")


def test_every_stage_is_measured_and_a_second_run_writes_the_same(bench, tmp_path):
    """The stages are the product's own functions: this fails when one of them changes."""
    bench.save_random_bert(tmp_path / "checkpoint", 1, hidden=64)
    runs = [bench.run(tmp_path / "checkpoint", tmp_path / "out", 4, 16) for _ in range(2)]
    found = bench.report(bench.parse_options(["--layers", "1", "--samples", "4"]), runs)
    assert found["same_bytes"]
    assert set(runs[0].hashes) == {
        "calibration.json",
        *(f"model.{name}.onnx" for name in ("fp32", "fp8", "int8", "fp16")),
    }
    assert found["seconds"] <= sum(stage.seconds for stage in runs[0].stages + runs[1].stages)
    for stage in found["stages"]:
        assert stage["seconds"] > 0
        assert stage["peak_mb"] > 0
    assert found["peak_mb"] == max(stage["peak_mb"] for stage in found["stages"])
    rows = bench.table(found).row_count
    assert rows == len(found["stages"]) + 1


@pytest.mark.skipif(not Path("/proc/self/clear_refs").is_file(), reason="Linux resets peaks")
def test_a_peak_is_that_of_its_stage_alone(bench):
    """What an earlier stage held for a while is not counted again."""
    found = bench.Run()
    with found.stage("large"):
        bytearray(b"x" * 200_000_000)
    with found.stage("small"):
        pass
    large, small = found.stages
    assert large.peak_mb - large.start_mb > 190
    assert small.peak_mb < large.peak_mb - 190
