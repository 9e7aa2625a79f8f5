"""The benchmark's part of results.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deploy.bench.crossover import Crossover, Entry, Speedup
from deploy.bench.sweep import Contestant, Measurement

# Digits behind the point: 0.01 µs, and a hundredth of a per cent.
_MS_DIGITS = 5
_RATIO_DIGITS = 4


def with_sweep(
    results: Mapping[str, Any],
    backend: str,
    measurements: Sequence[Measurement],
    comparison: Sequence[Crossover],
    environment: Mapping[str, Any],
) -> dict[str, Any]:
    """results.json with a sweep, in place of an earlier one of the same backend.

    Args:
        results: What it was.
        backend: The backend whose precisions were measured. It names the sweep, which its
            baselines belong to as well.
        measurements: All that was measured.
        comparison: What came of it.
        environment: What it was measured on.
    """
    return {
        **results,
        "latency": [
            *(row for row in results["latency"] if row["sweep"] != backend),
            *(_latency_row(backend, each) for each in measurements),
        ],
        "crossover": [
            *(row for row in results.get("crossover", ()) if row["sweep"] != backend),
            *(_crossover_row(backend, each) for each in comparison),
        ],
        "bench_environment": {**results.get("bench_environment", {}), backend: dict(environment)},
    }


def _latency_row(sweep: str, measured: Measurement) -> dict[str, Any]:
    probe, latency = measured.probe, measured.latency
    return {
        "sweep": sweep,
        **_name(probe.contestant),
        "batch": measured.shape.batch,
        "sequence": measured.shape.sequence,
        "clock": probe.timer.clock.value,
        "host_copies": probe.host_copies,
        "cuda_graph": probe.contestant.cuda_graph,
        "simulated": probe.contestant.simulated,
        "device": probe.contestant.device,
        "p50_ms": _ms(latency.p50_ms),
        "p90_ms": _ms(latency.p90_ms),
        "p95_ms": _ms(latency.p95_ms),
        "p99_ms": _ms(latency.p99_ms),
        "mean_ms": _ms(latency.mean_ms),
        "throughput_per_s": round(latency.throughput_per_s, 3),
        "iterations": latency.iterations,
        "spread": _ratio(latency.spread),
        "drift": _ratio(latency.drift),
        "trusted": latency.trusted,
        "distrust": latency.distrust,
        "round_p50_ms": [_ms(value) for value in latency.round_p50_ms],
    }


def _crossover_row(sweep: str, compared: Crossover) -> dict[str, Any]:
    return {
        "sweep": sweep,
        "batch": compared.shape.batch,
        "sequence": compared.shape.sequence,
        "clock": compared.clock.value,
        "host_copies": compared.host_copies,
        "entries": [_entry(entry) for entry in compared.entries],
    }


def _entry(entry: Entry) -> dict[str, Any]:
    return {
        **_name(entry.contestant),
        "cuda_graph": entry.contestant.cuda_graph,
        "p50_ms": _ms(entry.p50_ms),
        "fastest": entry.fastest,
        "speedups": [_speedup(each) for each in entry.speedups],
    }


def _speedup(against: Speedup) -> dict[str, Any]:
    return {
        **_name(against.reference),
        "ratio": _ratio(against.ratio),
        "interval": [_ratio(end) for end in against.interval],
        "verdict": against.verdict.value,
        "loss": against.loss,
    }


def _name(contestant: Contestant) -> dict[str, str]:
    return {"precision": contestant.precision, "backend": contestant.backend}


def _ms(value: float) -> float:
    return round(value, _MS_DIGITS)


def _ratio(value: float) -> float:
    return round(value, _RATIO_DIGITS)
