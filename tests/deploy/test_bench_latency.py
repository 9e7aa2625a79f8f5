from __future__ import annotations

import numpy as np
import pytest
from bench_fakes import FakeClock

from deploy.bench.latency import ROUNDS, median_interval, summarize


def test_percentiles_mean_and_throughput_of_known_samples():
    milliseconds = np.random.default_rng(0).permutation(np.arange(1, 101))
    latency = summarize((milliseconds / 1e3).reshape(ROUNDS, 10).tolist(), batch=8)
    # Linear interpolation between the sorted samples, as numpy defines it.
    assert latency.p50_ms == pytest.approx(50.5)
    assert latency.p90_ms == pytest.approx(90.1)
    assert latency.p95_ms == pytest.approx(95.05)
    assert latency.p99_ms == pytest.approx(99.01)
    assert latency.mean_ms == pytest.approx(50.5)
    assert latency.throughput_per_s == pytest.approx(8 / 0.0505)
    assert latency.iterations == 100


def test_rounds_of_different_length_count_by_their_calls():
    latency = summarize([[0.001] * 30, [0.003] * 10, [0.001] * 30], batch=1)
    assert latency.mean_ms == pytest.approx((60 * 1.0 + 10 * 3.0) / 70)
    assert latency.round_p50_ms == pytest.approx((1.0, 3.0, 1.0))


@pytest.mark.parametrize(
    ("rounds", "said"),
    [
        ([[1.0] * 8 + [1.05] * 2] * ROUNDS, None),
        # One round of ten may be off.
        ([[1.0] * 11] * (ROUNDS - 1) + [[9.0] * 10], None),
        ([[1.0] * 10] * (ROUNDS - 2) + [[1.2] * 10] * 2, "moved by 20 % between rounds"),
        ([[1.0] * 8 + [1.4] * 2] * ROUNDS, "over 40 % longer than p50"),
    ],
)
def test_says_when_the_spread_is_too_large_to_trust(rounds, said):
    latency = summarize(rounds, batch=1)
    assert latency.trusted is (said is None)
    if said:
        assert said in latency.distrust


def test_the_interval_encloses_the_median_as_often_as_it_says():
    draws = np.random.default_rng(1).standard_normal((4000, ROUNDS))
    inside = np.mean([low <= 0.0 <= high for low, high in map(median_interval, draws)])
    # 97.9 %; three standard errors of a share over 4,000 draws are 0.7 points.
    assert inside == pytest.approx(0.979, abs=0.007)


def test_the_host_clock_sees_each_call_alone():
    clock = FakeClock()
    costs = iter([0.3, 0.1, 0.2])
    assert clock.timer().time(lambda: clock.work(next(costs)), 3) == pytest.approx([0.3, 0.1, 0.2])
