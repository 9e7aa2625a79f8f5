from __future__ import annotations

import pytest
from bench_fakes import DeviceTimer, contestant, measured

from deploy.bench.crossover import crossover
from deploy.bench.latency import Clock
from deploy.engine.profiles import Shape

FP32, FP16, FP8 = (contestant(name) for name in ("fp32", "fp16", "fp8"))


def entries(*measurements):
    (compared,) = crossover(measurements)
    return {
        (entry.contestant.backend, entry.contestant.precision): entry for entry in compared.entries
    }


def against(entry, precision):
    (found,) = (each for each in entry.speedups if each.reference.precision == precision)
    return found


def test_the_fastest_and_by_how_much():
    found = entries(measured(FP32, 4.0), measured(FP16, 2.0), measured(FP8, 1.6))
    assert [who for who, entry in found.items() if entry.fastest] == [("tensorrt", "fp8")]
    fp8 = found["tensorrt", "fp8"]
    assert against(fp8, "fp16").ratio == pytest.approx(1.25)
    assert against(fp8, "fp32").ratio == pytest.approx(2.5)
    assert {each.verdict.value for each in fp8.speedups} == {"faster"}
    assert not any(each.loss for entry in found.values() for each in entry.speedups)


def test_a_quantized_precision_that_is_slower_is_a_loss():
    found = entries(measured(FP32, 4.0), measured(FP16, 0.93), measured(FP8, 1.0))
    assert found["tensorrt", "fp16"].fastest
    loss = against(found["tensorrt", "fp8"], "fp16")
    assert (loss.verdict.value, loss.loss) == ("slower", True)
    assert loss.ratio == pytest.approx(0.93)
    # FP32 is slower than FP16 as well, which nobody minds.
    assert not against(found["tensorrt", "fp32"], "fp16").loss


@pytest.mark.parametrize(
    ("fp8_rounds", "verdict"),
    [
        ([1.10] * 10, "slower"),
        ([1.10] * 9 + [0.9], "slower"),  # one round of ten decides nothing
        ([1.10] * 8 + [0.9] * 2, "tie"),  # the interval over rounds holds 1
        ([1.01] * 10, "tie"),  # not a difference that two sessions of one model would not have
        ([0.90] * 10, "faster"),
    ],
)
def test_within_the_noise_is_a_tie(fp8_rounds, verdict):
    found = entries(measured(FP16, 1.0), measured(FP8, *fp8_rounds))
    fp8 = found["tensorrt", "fp8"]
    assert against(fp8, "fp16").verdict.value == verdict
    assert fp8.fastest is (verdict != "slower")
    assert found["tensorrt", "fp16"].fastest is (verdict != "faster")


def test_drift_common_to_both_is_no_noise():
    """The rounds are three times slower at the end; 5 % remain 5 % in each of them."""
    rounds = [1.0 + 0.2 * number for number in range(10)]
    found = entries(measured(FP16, *rounds), measured(FP8, *(0.95 * ms for ms in rounds)))
    assert against(found["tensorrt", "fp8"], "fp16").verdict.value == "faster"


def test_what_is_simulated_is_left_out():
    fp8 = contestant("fp8", "onnxruntime", simulated=True)
    fp32 = contestant("fp32", "onnxruntime")
    torch = contestant("fp32", "torch-eager")
    found = entries(measured(fp8, 0.1), measured(fp32, 1.0), measured(torch, 2.0))
    assert set(found) == {("onnxruntime", "fp32"), ("torch-eager", "fp32")}
    assert found["onnxruntime", "fp32"].fastest
    # What is slower than this project's session is no loss of this project's.
    assert not any(each.loss for each in found["torch-eager", "fp32"].speedups)
    assert crossover([measured(fp8, 0.1), measured(fp32, 1.0)]) == ()


def test_losing_to_a_baseline_is_a_loss():
    found = entries(measured(FP8, 1.2), measured(contestant("fp16", "torch-compile"), 1.0))
    assert against(found["tensorrt", "fp8"], "fp16").loss


def test_a_gpu_is_compared_by_its_own_clock_and_with_its_graph():
    graph = contestant("fp8", cuda_graph=True)
    on_device = DeviceTimer()
    (compared,) = crossover(
        [
            measured(FP16, 0.1),  # the host's clock, where FP16 seems faster
            measured(FP8, 0.2),
            measured(FP16, 1.0, timer=on_device),
            measured(FP8, 3.0, timer=on_device),
            measured(graph, 0.5, timer=on_device),
        ]
    )
    assert (compared.clock, compared.host_copies) == (Clock.DEVICE, False)
    assert [(e.contestant, e.p50_ms) for e in compared.entries] == [
        (graph, pytest.approx(0.5)),
        (FP16, pytest.approx(1.0)),
    ]


def test_every_shape_has_its_own_verdict():
    small, large = Shape(1, 64), Shape(32, 64)
    found = crossover(
        [
            measured(FP16, 1.0, shape=small),
            measured(FP8, 1.1, shape=small),
            measured(FP16, 9.0, shape=large),
            measured(FP8, 6.0, shape=large),
        ]
    )
    assert [(each.shape, each.entries[0].contestant.precision) for each in found] == [
        (small, "fp16"),
        (large, "fp8"),
    ]
