from __future__ import annotations

import io
import re

import pytest
from bench_fakes import SHAPE, DeviceTimer, contestant, measured
from rich.console import Console

from deploy.bench.crossover import crossover
from deploy.bench.results import with_sweep
from deploy.cli.bench_tables import print_benchmark
from deploy.report.latency import sweep_view

DEVICE = DeviceTimer()


def results_of(*measurements):
    plain = {"model": "[bold]m", "task": "sst2", "latency": []}
    return with_sweep(plain, "tensorrt", measurements, crossover(measurements), {})


def modes(name, host, device, backend="tensorrt", cuda_graph=False):
    who = contestant(name, backend, cuda_graph=cuda_graph)
    return measured(who, host), measured(who, device, timer=DEVICE)


# Two precisions by both clocks, with and without a graph, and a baseline.
ON_GPU = (
    *modes("fp16", 1.30, 1.20),
    *modes("fp16", 1.10, 0.93, cuda_graph=True),
    *modes("fp8", 1.40, 1.31),
    *modes("fp8", 1.15, 1.00, cuda_graph=True),
    *modes("fp16", 4.00, 3.72, "torch-eager"),
)


@pytest.fixture
def on_gpu():
    return results_of(*ON_GPU)


def printed(results, width):
    sink = io.StringIO()
    print_benchmark(results, "tensorrt", Console(file=sink, width=width, highlight=False))
    return sink.getvalue()


def line(text, *cells):
    return re.search("^ *" + " +".join(map(re.escape, cells)) + " *$", text, re.MULTILINE)


def test_a_line_has_the_gpus_time_and_the_callers_both_with_the_graph(on_gpu):
    shown = printed(on_gpu, width=80)
    ms = ("0.930", "0.930", "0.930", str(round(SHAPE.batch / 0.93e-3)), "1.100")
    assert line(shown, "8", "128", "fp16", *ms)
    ms = ("3.720", "3.720", "3.720", str(round(SHAPE.batch / 3.72e-3)), "4.000")
    assert line(shown, "8", "128", "torch-eager fp16", *ms)
    assert shown.count("fp8 ") == 2  # a latency and a loss; modes stay in results.json


def test_losses_are_shown_and_the_fastest_is_held_against_every_reference(on_gpu):
    shown = printed(on_gpu, width=100)
    assert line(shown, "8", "128", "fp16", "4.00x torch-eager fp16")
    assert line(shown, "loss at 8 x 128: fp8 0.93x: slower than fp16")
    (compared,) = sweep_view(on_gpu, "tensorrt").crossover
    assert compared.fastest == "fp16"


def test_a_tie_is_called_one():
    shown = printed(
        results_of(measured(contestant("fp16"), 1.0), measured(contestant("fp8"), 0.99)), 80
    )
    assert line(shown, "8", "128", "fp8 = fp16", "tie")


def test_numbers_that_cannot_be_trusted_are_marked_and_explained():
    drifting = [1.0] * 8 + [1.5] * 2
    shown = printed(
        results_of(measured(contestant("fp16"), *drifting), measured(contestant("fp8"), 2.0)), 200
    )
    assert re.search(r"fp16 +1\.000\? ", shown)
    assert re.search(r"fp8 +2\.000 ", shown)
    assert "? spread too large to trust in 1 of 2 rows; the worst, fp16 at 8 x 128" in shown
    assert "moved by 50 % between rounds" in shown


def test_80_columns_hold_every_table():
    others = ("torch-compile", "onnxruntime-cuda")
    shown = printed(
        results_of(*ON_GPU, *(row for name in others for row in modes("fp16", 123.4, 122.9, name))),
        width=80,
    )
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown
    assert line(shown, "8", "128", "onnxruntime-cuda fp16", *3 * ("122.9",), "65.1", "123.4")
    for speedup in ("4.00x torch-eager fp16", "132.15x torch-compile", "132.15x onnxruntime-cuda"):
        assert speedup in " ".join(shown.split())
    assert shown.startswith("[bold]m on a processor")
