"""What results.json has to hold for a command that reads it.

A build folder is moved, edited and merged; a command that finds a field missing or of another type
says which, instead of failing somewhere in the middle of a report.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from deploy.engine.session import Backend, Precision
from deploy.structure import (
    count,
    either,
    flag,
    mapping,
    number,
    one_of,
    optional,
    positive,
    quantity,
    record,
    sequence,
    some,
    text,
)

_precision = one_of(*(precision.value for precision in Precision))
_backend = one_of(*(backend.value for backend in Backend))
_clock = one_of("host", "device")
_texts = sequence(text)

_shape = record({"batch": some, "sequence": some})

_drop = record({"drop": number, "relative_drop": number, "ci95": sequence(number, least=2, most=2)})

# The metrics by their names, beside what all tasks have.
_comparison = record({"agreement": quantity, "changed": count})

_run = record(
    {
        "precision": _precision,
        "recipe": optional(text),
        "backend": text,
        "arithmetic": text,
        "simulated": flag,
        "device": text,
        "metrics": mapping(number),
        "n": some,
        "seconds": quantity,
    },
    {"examples_total": some, "simulated_parts": _texts, "compare": _comparison},
)

_FUSION = {
    "quantized_gemms": count,
    "expected_gemms": count,
    "fused_attention": count,
    "expected_attention": count,
}

_fusion = record(
    {
        **_FUSION,
        "unfused": _texts,
        "profiles": sequence(
            record(
                {
                    "target": text,
                    "min": _shape,
                    "opt": _shape,
                    "max": _shape,
                    "layers": count,
                    **_FUSION,
                },
                {"unfused": sequence(record({"module": text, "reason": text}))},
            )
        ),
    }
)

_example = record(
    {
        "id": text,
        "texts": mapping(text),
        "expected": either(number, text, sequence(text)),
        "fp32": either(number, text),
        "answer": either(number, text),
        "outcome": one_of("lost", "gained", "neither"),
    },
    {"fp32_margin": number, "margin": number},
)

_calibration = record(
    {
        "task": text,
        "data_fingerprint": text,
        "samples": count,
        "seed": count,
        "batch_size": count,
        "order": text,
    },
    {"ranges": record({"sites": mapping(quantity), "carried": mapping(quantity)})},
)

_latency = record(
    {
        "sweep": text,
        "precision": _precision,
        "backend": text,
        "batch": some,
        "sequence": some,
        "clock": _clock,
        "host_copies": flag,
        "cuda_graph": flag,
        "simulated": flag,
        "device": text,
        "p50_ms": positive,
        "p90_ms": positive,
        "p95_ms": positive,
        "p99_ms": positive,
        "throughput_per_s": positive,
        "iterations": some,
        "spread": quantity,
        "drift": quantity,
        "trusted": flag,
        "distrust": optional(text),
    }
)

_speedup = record(
    {
        "precision": _precision,
        "backend": text,
        "ratio": quantity,
        "interval": sequence(number, least=2, most=2),
        "verdict": text,
        "loss": flag,
    }
)

_crossover = record(
    {
        "sweep": text,
        "batch": some,
        "sequence": some,
        "clock": _clock,
        "entries": sequence(
            record(
                {
                    "precision": _precision,
                    "backend": text,
                    "p50_ms": positive,
                    "fastest": flag,
                    "speedups": sequence(_speedup),
                }
            ),
            least=1,
        ),
    }
)

_kind = record(
    {"granularity": text, "calibrator": record({"method": text}, {"percentile": number})}
)

_recipe = record(
    {"name": text, "format": text, "kinds": mapping(_kind)},
    {"exclude": _texts, "center_attention": flag, "smoothquant": number},
)

# A bare name stands for a preset.
_config = record(
    {
        "model": text,
        "task": text,
        "out": text,
        "precision": sequence(_precision, least=1),
        "data_dir": optional(text),
        "buckets": sequence(some, least=1),
        "max_batch": some,
        "limit": optional(some),
    },
    {
        "backend": optional(_backend),
        "recipe": sequence(either(text, _recipe)),
        "max_drop": optional(quantity),
        "min": mapping(number),
        "min_agreement": optional(quantity),
        "require_fusion": flag,
    },
)

_environment = record(
    {"python": text, "cpu": text, "cores": count, "gpus": _texts, "packages": mapping(text)},
    {"platform": text},
)

_effort = record({"iterations": number, "seconds": number, "warmup": number})

_bench_config = record(
    {
        "precision": sequence(_precision, least=1),
        "backend": _backend,
        "batch": sequence(some, least=1),
        "sequence": sequence(some, least=1),
        "baseline": _texts,
        "model": optional(text),
        "cuda_graph": flag,
        "iterations": some,
        "seconds": quantity,
        "warmup": quantity,
    }
)

_changed = mapping(
    record({"backend": text, "total": count, "examples": sequence(_example)}), key=_precision
)

_results = record(
    {
        "model": text,
        "task": text,
        "accuracy": mapping(
            record({"metrics": mapping(number), "n": some, "backend": text}), key=_precision
        ),
        "runs": sequence(_run, least=1),
        "compare": mapping(_comparison, key=_precision),
        "fusion": mapping(_fusion, key=_precision),
        "engines": sequence(
            record(
                {
                    "precision": _precision,
                    "flavour": text,
                    "version": text,
                    "target": text,
                    "file": text,
                    "bytes": count,
                    "seconds": quantity,
                }
            )
        ),
        "onnx": mapping(record({"bytes": some}), key=_precision),
        "recipes": mapping(_recipe, key=_precision),
        "calibration": optional(_calibration),
        "latency": sequence(_latency),
        "gates": sequence(
            record({"name": text, "limit": number, "value": optional(number), "passed": flag})
        ),
        "environment": _environment,
        "config": _config,
    },
    {
        "labels": optional(
            record(
                {
                    "names": _texts,
                    "outputs": optional(sequence(count)),
                    "suspected_permutation": flag,
                }
            )
        ),
        "task_file": optional(text),
        "model_fingerprint": text,
        "data_fingerprint": text,
        "limits": record(
            {
                "max_drop": optional(quantity),
                "min": mapping(number),
                "min_agreement": optional(quantity),
            }
        ),
        "changed_examples": _changed,
        "crossover": sequence(_crossover),
        # Earlier versions kept nothing of what a benchmark was asked for but `effort`.
        "bench_environment": mapping(record({}, {"config": _bench_config, "effort": _effort})),
    },
)


_examples = record({"changed_examples": _changed})


def check_examples(examples: Any) -> None:
    """Check the content of examples.json.

    Raises:
        ValueError: A field is missing or of another type.
    """
    _examples(examples, "examples.json")


def check_results(results: Mapping[str, Any]) -> None:
    """Check the content of results.json.

    Raises:
        ValueError: A field is missing or of another type, or fields contradict each other.
    """
    _results(results, "")
    for problem in _contradictions(results):
        raise ValueError(problem)


def _contradictions(results: Mapping[str, Any]) -> Iterator[str]:
    accuracy = results["accuracy"]
    if "fp32" not in accuracy:
        yield "accuracy has no 'fp32'"
        return
    for name in accuracy:
        if name not in results["onnx"]:
            yield f"onnx has no '{name}'"
    metrics = list(accuracy["fp32"]["metrics"])
    if not metrics:
        yield "accuracy.fp32.metrics is empty"
    for place, found in _metrics(results):
        missing = [name for name in metrics if name not in found]
        if missing:
            yield f"{place} has no '{missing[0]}'"
    ran = {run["precision"] for run in results["runs"]}
    for part in ("accuracy", "compare"):
        for name in results[part]:
            if name not in ran or name not in accuracy:
                yield f"{part} has {name}, which never ran"
    yield from _sweeps(results)


def _metrics(results: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every place where a metric stands."""
    for name, entry in results["accuracy"].items():
        yield f"accuracy.{name}.metrics", entry["metrics"]
    for index, run in enumerate(results["runs"]):
        yield f"runs[{index}].metrics", run["metrics"]
    compared = [
        *((f"compare.{name}", entry) for name, entry in results["compare"].items()),
        *(
            (f"runs[{index}].compare", run["compare"])
            for index, run in enumerate(results["runs"])
            if "compare" in run
        ),
    ]
    for place, entry in compared:
        yield place, entry
        for name, value in entry.items():
            if name not in ("agreement", "changed"):
                _drop(value, f"{place}.{name}")


def _sweeps(results: Mapping[str, Any]) -> Iterator[str]:
    """What the rows of the benchmark need of one another."""
    rows: Sequence[Mapping[str, Any]] = results["latency"]
    for name in {row["sweep"] for row in rows}:
        if "crossover" not in results:
            yield "latencies, but no 'crossover'"
        if name not in results.get("bench_environment", {}):
            yield f"bench_environment has no '{name}'"
    measured = {row["sweep"] for row in rows}
    for row in results.get("crossover", ()):
        if row["sweep"] not in measured:
            yield f"crossover has '{row['sweep']}', which has no latencies"
