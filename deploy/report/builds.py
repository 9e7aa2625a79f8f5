"""Several builds side by side: one plain object that `deploy compare` shows in every form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from deploy.artifacts import SCHEMA_VERSION
from deploy.evidence import shown_run
from deploy.report.latency import sweep_views
from deploy.report.verdict import verdict

_FUSION = ("quantized_gemms", "expected_gemms", "fused_attention", "expected_attention")

Results = Mapping[str, Any]


def compare_builds(names: Sequence[str], builds: Sequence[Results]) -> dict[str, Any]:
    """Put builds side by side.

    Args:
        names: What each is called, such as its folder.
        builds: The results.json of each.

    Returns:
        `builds` (what each is, numbered from 1), `rows` (one for each precision of each build),
        `latency` (p50 at the shapes that every build measured, simulated ones left out) and
        `warnings` (why something does not compare).
    """
    numbered = list(enumerate(builds, start=1))
    latency = _latency(builds)
    return {
        "schema_version": SCHEMA_VERSION,
        "builds": [
            {
                "build": number,
                "name": name,
                "model": results["model"],
                "task": results["task"],
                "n": results["accuracy"]["fp32"]["n"],
                "model_fingerprint": results.get("model_fingerprint"),
                "data_fingerprint": results.get("data_fingerprint"),
                "verdict": verdict(results).headline,
            }
            for name, (number, results) in zip(names, numbered, strict=True)
        ],
        "rows": [row for number, results in numbered for row in _rows(number, results)],
        "latency": latency,
        "warnings": list(_warnings(builds, latency)),
    }


def _rows(number: int, results: Results) -> Iterator[dict[str, Any]]:
    for precision, accuracy in results["accuracy"].items():
        run = shown_run(results, precision)
        compared = results["compare"].get(precision)
        fusion = results["fusion"].get(precision)
        yield {
            "build": number,
            "precision": precision,
            "recipe": run["recipe"],
            "backend": run["backend"],
            "arithmetic": run["arithmetic"],
            "simulated": run["simulated"],
            "metrics": {
                name: {"value": value, **(compared[name] if compared else {})}
                for name, value in accuracy["metrics"].items()
            },
            "agreement": compared["agreement"] if compared else None,
            "changed": compared["changed"] if compared else None,
            "fusion": fusion and {name: fusion[name] for name in _FUSION},
            "onnx_bytes": results["onnx"].get(precision, {}).get("bytes"),
            "plans": [
                {name: engine[name] for name in ("flavour", "version", "target", "bytes")}
                for engine in results["engines"]
                if engine["precision"] == precision
            ],
        }


def _latency(builds: Sequence[Results]) -> list[dict[str, Any]]:
    """The builds' own precisions at every shape that all builds measured on one clock."""
    found = [
        {
            "build": number,
            **{name: row[name] for name in ("precision", "backend", "device", "clock")},
            **{name: row[name] for name in ("batch", "sequence", "p50_ms", "trusted")},
        }
        for number, results in enumerate(builds, start=1)
        for view in sweep_views(results)
        for row in (line.row for line in view.lines)
        if row["backend"] == view.name and not row["simulated"]
    ]
    shapes: dict[tuple[int, int, str], set[int]] = {}
    for each in found:
        shape = (each["batch"], each["sequence"], each["clock"])
        shapes.setdefault(shape, set()).add(each["build"])
    shared = {shape for shape, measured in shapes.items() if len(measured) == len(builds)}
    return sorted(
        (each for each in found if (each["batch"], each["sequence"], each["clock"]) in shared),
        key=lambda each: (each["sequence"], each["batch"], each["clock"]),
    )


def _warnings(builds: Sequence[Results], latency: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    tasks = [results["task"] for results in builds]
    if len(set(tasks)) > 1:
        yield f"another task: {_each(tasks)}; their metrics do not compare"
    counts = [results["accuracy"]["fp32"]["n"] for results in builds]
    if len(set(counts)) > 1:
        yield f"another number of examples: {_each(counts)}; build all without --limit"
    elif len(set(tasks)) == 1:
        yield from _data_warnings([results.get("data_fingerprint") for results in builds])
    simulated = [
        any(shown_run(results, precision)["simulated"] for precision in results["accuracy"])
        for results in builds
    ]
    if len(set(simulated)) > 1:
        words = ["simulated" if each else "executed" for each in simulated]
        yield f"accuracy of another kind: {_each(words)}; the rows say what ran each"
    devices = [
        ", ".join(dict.fromkeys(each["device"] for each in latency if each["build"] == number))
        for number in range(1, len(builds) + 1)
    ]
    if len(set(devices)) > 1:
        yield f"another processor: {_each(devices)}; their latencies do not compare"
    elif latency:
        yield (
            "latencies of two builds were not taken in turn: a difference of a few per cent means "
            "nothing"
        )
    elif any(results["latency"] for results in builds):
        yield "no shape was measured in every build: `deploy bench` all with the same shapes"


def _data_warnings(fingerprints: Sequence[str | None]) -> Iterator[str]:
    if None in fingerprints:
        yield "some builds do not say what they were evaluated on: build them again"
    elif len(set(fingerprints)) > 1:
        short = [str(each)[:8] for each in fingerprints]
        yield f"other development tokens: {_each(short)}; other data, tokenizer or length"


def _each(values: Sequence[object]) -> str:
    """What each build has, by its number."""
    return ", ".join(f"{number}: {value}" for number, value in enumerate(values, start=1))
