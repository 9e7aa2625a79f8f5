import importlib
from dataclasses import replace
from pathlib import Path

import pytest
from checkpoints import save_random_checkpoint

from calib_data.tasks import QuestionExample, TextExample, get_task

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize("name", ["sst2", "squad"])
def test_both_ways_come_to_the_same_metrics(monkeypatch, tmp_path, name):
    monkeypatch.syspath_prepend(BENCHMARKS)
    speed = importlib.import_module("evaluate_speed")
    # As far as the small checkpoint has positions.
    task = replace(get_task(name), max_length=64, buckets=(32, 64))
    answers = name == "squad"
    source = save_random_checkpoint(tmp_path, question_answering=answers)
    examples = tuple(
        QuestionExample(str(i), f"w{i}", " ".join(f"w{i + j}" for j in range(20)), ("w5",), (0,))
        if answers
        else TextExample(str(i), (f"w{i} " * (1 + i % 9),), i % 2)
        for i in range(40)
    )
    found = speed.measure(str(source), task, examples, rounds=1)
    assert found["metrics"]["ours"] == pytest.approx(found["metrics"]["padded"], abs=1e-9)
    assert found["ratio"] == pytest.approx(found["ours_per_s"] / found["padded_per_s"])
    assert len(found["seconds"]["ours"]) == len(found["seconds"]["padded"]) == 1
