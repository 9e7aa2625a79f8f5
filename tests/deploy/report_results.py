"""results.json of a build that has everything a report can show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench_fakes import DeviceTimer, contestant, measured

from deploy.bench.config import bench_config_from_dict, bench_config_to_dict
from deploy.bench.crossover import crossover
from deploy.bench.results import with_sweep
from deploy.bench.sweep import Measurement
from deploy.config import config_from_dict, config_to_dict
from deploy.engine.profiles import Shape
from export.recipe import PRESETS, recipe_to_dict

Results = dict[str, Any]

ENCODER = "bert.encoder.layer"


def drop(value: float, low: float, high: float, reference: float = 0.9) -> Results:
    return {"drop": value, "relative_drop": value / reference, "ci95": [low, high]}


def run(precision: str, accuracy: float, f1: float, simulated: bool = True) -> Results:
    return {
        "precision": precision,
        "recipe": precision if precision in {"fp8", "int8"} else None,
        "backend": "onnxruntime",
        "arithmetic": "fp32",
        "simulated": simulated,
        "device": "a processor",
        "metrics": {"accuracy": accuracy, "f1": f1},
        "n": 1234,
        "seconds": 1.5,
    }


def full_results() -> Results:
    """Two metrics, four precisions, an attention that did not fuse, latencies on a GPU."""
    runs = [
        run("fp32", 0.9, 0.88, simulated=False),
        run("fp8", 0.896, 0.8766),
        run("int8", 0.88, 0.86),
        run("fp16", 0.9, 0.88),
    ]
    recipe = {**recipe_to_dict(PRESETS["int8"]), "name": "mine", "exclude": ["*.layer.0.*"]}
    config = {
        "model": "org/model",
        "task": "mrpc",
        "out": "out/a build",
        "precision": "fp8,int8,fp16",
        "data_dir": "data",
        "buckets": "16,128",
        "recipe": [recipe],
        "max_drop": 0.01,
        "min": {"accuracy": 0.5, "f1": 0.25},
        "require_fusion": True,
    }
    results = {
        "schema_version": 1,
        "model": "org/model",
        "task": "mrpc",
        "labels": {"names": ["no", "yes"], "outputs": [0, 1], "suspected_permutation": False},
        "model_fingerprint": "ab" * 32,
        "data_fingerprint": "cd" * 32,
        "accuracy": {
            each["precision"]: {name: each[name] for name in ("metrics", "n", "backend")}
            for each in runs
        },
        "runs": runs,
        "compare": {
            "fp8": {
                "accuracy": drop(0.004, -0.001, 0.0085),
                "f1": drop(0.0034, -0.002, 0.008, 0.88),
                "agreement": 0.991,
                "changed": 11,
            },
            "int8": {
                "accuracy": drop(0.02, 0.009, 0.031),
                "f1": drop(0.02, 0.01, 0.03, 0.88),
                "agreement": 0.95,
                "changed": 62,
            },
            "fp16": {
                "accuracy": drop(0.0, 0.0, 0.0),
                "f1": drop(0.0, 0.0, 0.0, 0.88),
                "agreement": 1.0,
                "changed": 0,
            },
        },
        "changed_examples": {
            "fp8": {
                "backend": "onnxruntime",
                "total": 11,
                "examples": [_example(str(index)) for index in range(5)],
            },
            "fp16": {"backend": "onnxruntime", "total": 0, "examples": []},
        },
        "fusion": {
            "fp8": _fusion(gemms=72, attention=10),
            "int8": _fusion(gemms=72, attention=12),
            "fp16": _fusion(gemms=0, attention=12),
        },
        "engines": [
            _engine("fp8", 36_000_000),
            _engine("fp8", 37_000_000, "sm120"),
            _engine("int8", 35_000_000),
            _engine("fp16", 58_000_000),
        ],
        "onnx": {
            name: {"bytes": size}
            for name, size in (("fp32", 400_000_000), ("fp8", 110_000_000), ("int8", 110_100_000))
        }
        | {"fp16": {"bytes": 200_000_000}},
        "recipes": {"fp8": recipe_to_dict(PRESETS["fp8"]), "int8": recipe},
        "calibration": {
            "model_fingerprint": "ab" * 32,
            "task": "mrpc",
            "data_fingerprint": "ef" * 32,
            "samples": 256,
            "seed": 0,
            "batch_size": 16,
            "order": "sorted by length",
            "tools": {"torch": "2.13.0"},
            "ranges": _ranges(),
        },
        "latency": [],
        "gates": [
            {"name": "max_drop.fp8.accuracy", "limit": 0.01, "value": 0.00444, "passed": True},
            {"name": "max_drop.int8.accuracy", "limit": 0.01, "value": 0.0222, "passed": False},
        ],
        "environment": {
            "python": "3.12.1",
            "platform": "Linux",
            "cpu": "a processor",
            "cores": 2,
            "gpus": ["NVIDIA H100, 580.12"],
            "packages": {"torch": "2.13.0", "onnx": "1.19"},
        },
        "config": config_to_dict(config_from_dict(config)),
    }
    return with_latency(results, measurements())


def with_latency(
    results: Results, found: Sequence[Measurement], sweep: str = "tensorrt"
) -> Results:
    asked = {"out": "out", "precision": "fp32,fp16,int8,fp8", "backend": sweep, "batch": "1,8"}
    asked |= {"sequence": "16,128", "baseline": "torch-eager", "seconds": 0.5}
    environment = {"config": bench_config_to_dict(bench_config_from_dict(asked))}
    return with_sweep(results, sweep, found, crossover(found), environment)


def measurements(fp8: float = 0.7, int8: float = 0.8, fp16: float = 1.0) -> list[Measurement]:
    """Engines and a baseline on a GPU: host and device clock, four shapes, FP8 slow at batch 1."""
    found = []
    for shape in (Shape(1, 16), Shape(8, 16), Shape(1, 128), Shape(8, 128)):
        work = 0.1 + shape.batch * shape.sequence / 1024
        times = {"fp32": 3.0, "fp16": fp16, "int8": int8, "fp8": fp8 if shape.batch > 1 else 1.2}
        for who, ms in [
            *((contestant(name, cuda_graph=True), ms) for name, ms in times.items()),
            (contestant("fp16", "torch-eager"), 4.0),
        ]:
            found.append(measured(who, ms * work, timer=DeviceTimer(), shape=shape))
            found.append(measured(who, ms * work + 0.1, shape=shape))
    return found


def _example(name: str) -> Results:
    return {
        "id": name,
        "texts": {"sentence1": f"The first text of {name}.", "sentence2": "The second."},
        "expected": "yes",
        "fp32": "yes",
        "answer": "no",
        "outcome": "lost",
        "fp32_margin": 0.31,
        "margin": 0.02,
    }


def _engine(precision: str, size: int, target: str = "sm89") -> Results:
    return {
        "precision": precision,
        "flavour": "tensorrt-rtx",
        "version": "1.7.1.116",
        "target": target,
        "file": f"engines/model.{precision}.{target}.plan",
        "bytes": size,
        "seconds": 12.34,
    }


def _fusion(gemms: int, attention: int) -> Results:
    counts = {
        "quantized_gemms": gemms,
        "expected_gemms": gemms,
        "fused_attention": attention,
        "expected_attention": 12,
    }
    modules = [f"{ENCODER}.{layer}.attention.self" for layer in range(12 - attention)]
    reason = "sequence 16: FP8 attention fuses from 32 tokens"
    short, long = ({"batch": 1, "sequence": sequence} for sequence in (16, 128))
    return {
        **counts,
        "unfused": modules,
        "profiles": [
            {"target": "sm89", "min": short, "opt": short, "max": {**short, "batch": 32}}
            | {"layers": 210, **counts}
            | {"unfused": [{"module": module, "reason": reason} for module in modules]},
            {"target": "sm89", "min": long, "opt": long, "max": {**long, "batch": 32}}
            | {"layers": 138, **counts, "fused_attention": 12, "unfused": []},
        ],
    }


def _ranges() -> Results:
    roles = ("attention.self.input", "attention.self.q", "attention.output.dense.residual")
    sites = {
        f"{ENCODER}.{layer}.{role}": amax + layer
        for layer in range(12)
        for role, amax in zip(roles, (6.5, 1.25, 6.5), strict=True)
    }
    carried = {
        f"{ENCODER}.{layer}.output.LayerNorm.input": 50.0 * (layer + 1) for layer in range(12)
    }
    return {"sites": sites, "carried": {**carried, "classifier.output": 3.41}}
