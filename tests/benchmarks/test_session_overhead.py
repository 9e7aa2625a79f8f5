import importlib
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("head", ["classification", "question answering"])
def test_engine_that_does_nothing_still_satisfies_the_session(monkeypatch, head, graphs):
    monkeypatch.syspath_prepend(BENCHMARKS)
    overhead = importlib.import_module("session_overhead")
    found = overhead.measure(head, graphs, tokens=100, calls=100)
    assert (found["sequence"], found["bucket"]) == (100, 128)
    assert 0 < found["p50_us"] <= found["p99_us"]
