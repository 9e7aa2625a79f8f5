from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from report_results import drop, full_results, measurements, run, with_latency

from deploy.evaluation.results import with_evaluation
from deploy.report.speed import measured_speeds
from deploy.report.verdict import Readiness, verdict

Results = dict[str, Any]


@pytest.fixture
def results() -> Results:
    """FP8, INT8 and FP16 that lose nothing and fused, with nothing measured."""
    results = full_results()
    results.update(latency=[], crossover=[], gates=[])
    for name, each in results["compare"].items():
        each["accuracy"] = drop(0.001, -0.001, 0.002)
        results["fusion"][name]["unfused"] = []
    return results


def executed(results: Results, backend: str = "tensorrt") -> Results:
    """The same, with every accuracy measured on engines, or on what executes the same graph."""
    runs = [{**run, "simulated": False, "backend": backend} for run in results["runs"]]
    accuracy = {name: {**entry, "backend": backend} for name, entry in results["accuracy"].items()}
    return {**results, "runs": runs, "accuracy": accuracy}


def evaluated(results: Results, **facts: Any) -> Results:
    """The same after another evaluation of FP8."""
    fp8 = {**run("fp8", 0.89, 0.87), "compare": results["compare"]["fp8"], **facts}
    return with_evaluation(results, {"runs": [fp8], "changed_examples": {}})


def loses(name: str, relative: float) -> Callable[[Results], None]:
    def change(results: Results) -> None:
        results["compare"][name]["accuracy"] = drop(0.9 * relative, 0.0, 1.8 * relative)

    return change


def fails(gate: str) -> Callable[[Results], None]:
    def change(results: Results) -> None:
        results["gates"] = [{"name": gate, "limit": 0.9, "value": 0.8, "passed": False}]

    return change


def unfused(name: str) -> Callable[[Results], None]:
    def change(results: Results) -> None:
        results["fusion"][name]["unfused"] = ["bert.encoder.layer.0.attention.self"]

    return change


def first(results: Results, examples: int) -> None:
    """Judge on the first examples only."""
    results["config"]["limit"] = examples
    for each in (*results["runs"], *results["accuracy"].values()):
        each["n"] = examples


def of(results: Results, total: int) -> None:
    """Say how many examples there are."""
    for each in results["runs"]:
        each["examples_total"] = total


def limit(value: float) -> Callable[[Results], None]:
    def change(results: Results) -> None:
        results["config"]["max_drop"] = value

    return change


@pytest.mark.parametrize(
    ("changes", "chosen"),
    [
        ([], "fp8"),
        ([fails("max_drop.fp8.accuracy")], "int8"),
        ([fails("min.accuracy.fp8")], "int8"),
        ([fails("fusion.fp8")], "int8"),
        ([fails("some_day")], None),  # names no precision, so it stands for all of them
        ([loses("fp8", 0.011)], "int8"),  # no more than 1 %
        ([loses("fp8", 0.009)], "fp8"),
        ([loses("fp8", 0.011), limit(0.02)], "fp8"),
        ([loses("fp8", 0.009), limit(0.005)], "int8"),
        ([unfused("fp8")], "int8"),
        ([unfused("fp8"), unfused("int8")], "fp16"),
        ([unfused("fp8"), loses("int8", 0.1), loses("fp16", 0.1)], "fp8"),
        ([loses("fp8", 0.1), loses("int8", 0.1), loses("fp16", 0.1)], None),
    ],
)
def test_without_latencies(changes, chosen, results):
    for change in changes:
        change(results)
    assert verdict(results).precision == chosen


@pytest.mark.parametrize(
    ("times", "changes", "chosen"),
    [
        ({}, [], "int8"),  # FP8 is slow at batch 1, which the mean over shapes includes
        ({"fp8": 0.3}, [], "fp8"),
        ({"fp8": 0.3}, [fails("max_drop.fp8.accuracy")], "int8"),
        ({"fp8": 0.3}, [unfused("fp8")], "fp8"),  # measured beats inferred
        ({"fp16": 0.5}, [], "fp16"),
        ({"fp16": 0.81}, [], "fp16"),  # a tie: 8 bits that gain nothing only lose
        ({"fp16": 0.83}, [], "int8"),
        ({"fp8": 0.3}, [loses(name, 0.1) for name in ("fp8", "int8", "fp16")], None),
        ({"int8": 9.0, "fp16": 9.0, "fp8": 90.0}, [], "fp32"),
    ],
)
def test_with_latencies_the_fastest_that_is_good_enough_is_chosen(times, changes, chosen, results):
    results = with_latency(results, measurements(**times))
    for change in changes:
        change(results)
    assert verdict(results).precision == chosen


def test_ready_is_what_was_executed_and_measured(results):
    ready = verdict(executed(with_latency(results, measurements(fp8=0.3))))
    assert (ready.readiness, ready.headline, ready.missing) == (Readiness.READY, "Ship FP8", ())
    assert "fastest at 2 of 4 shapes on a processor: 3.33x as fast" not in ready.reasons
    (speed,) = [each for each in ready.reasons if each.startswith("fastest at")]
    assert "fastest at 2 of 4 shapes on a processor" in speed
    assert dict(ready.others)["int8"].startswith("acceptable too; FP8 is 1.33x as fast")
    assert any(each.startswith("slower at 1 x 16 (0.83x of fp16)") for each in ready.caveats)


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        (lambda r: first(r, 100), "the other examples: --limit 100"),  # of an earlier version
        (lambda r: of(r, 2000), "the other examples: 1,234 of 2,000 were evaluated"),
        (lambda r: r.update(engines=[]), "an engine: none was built"),
        (lambda r: r["fusion"].pop("fp8"), "what fused"),
        (lambda r: r["labels"].update(suspected_permutation=True), "the order of the labels"),
        (lambda r: r.update(latency=[], crossover=[]), "latency against another precision"),
        (lambda r: r["runs"][1].update(simulated=True), "the engine's own accuracy"),
    ],
)
def test_what_is_missing_is_named(change, missing, results):
    results = executed(with_latency(results, measurements(fp8=0.3)))
    change(results)
    found = verdict(results)
    assert found.readiness is Readiness.PROVISIONAL
    assert found.headline == "FP8 is the candidate; one check is missing before it ships"
    assert [each.startswith(missing) for each in found.missing] == [True]


@pytest.mark.parametrize("limit", [1234, 5000])
def test_a_limit_that_leaves_nothing_out_is_none(limit, results):
    results = executed(with_latency(results, measurements(fp8=0.3)))
    results["config"]["limit"] = limit
    of(results, 1234)
    assert verdict(results).readiness is Readiness.READY


def test_an_engine_on_a_few_examples_is_not_what_the_shown_accuracy_is_of(results):
    """The simulation on all of them stays the best evidence."""
    results = evaluated(
        with_latency(results, measurements(fp8=0.3)), backend="tensorrt", simulated=False, n=5
    )
    assert results["accuracy"]["fp8"]["n"] == 1234
    (missing,) = verdict(results).missing
    assert missing.startswith("the engine's own accuracy: so far its codes were multiplied")


def test_torch_is_no_engine(results):
    timed = with_latency(results, measurements(fp8=0.3))
    (missing,) = verdict(executed(timed, "torch")).missing
    assert missing == (
        "the engine's own accuracy: so far torch executed its graph; `deploy evaluate --backend "
        "tensorrt-rtx` on the GPU, on all examples"
    )
    # Where an engine has run too, it counts, whichever was last.
    assert verdict(evaluated(executed(timed), backend="torch", simulated=False)).missing == ()


def test_a_latency_of_torch_is_not_the_engines(results):
    found = [
        replace(each, probe=replace(each.probe, contestant=replace(who, backend="torch")))
        for each in measurements(fp8=0.3)
        for who in [each.probe.contestant]
        if who.backend == "tensorrt"
    ]
    (missing,) = verdict(executed(with_latency(results, found, sweep="torch"))).missing
    assert missing.startswith("the engine's own latency: so far torch ran its graph")


def test_a_simulated_latency_decides_nothing(results):
    """On the CPU only FP32 really runs: the rest is left out of the comparison."""
    timed = with_latency(results, measurements(fp8=0.001))
    for row in timed["crossover"]:
        row["entries"] = [each for each in row["entries"] if each["precision"] == "fp32"]
    assert measured_speeds(timed) is None
    assert any(each.startswith("latency") for each in verdict(timed).missing)


def test_a_baseline_named_like_a_backend_is_no_precision_of_the_build(results):
    speeds = measured_speeds(with_latency(results, measurements()))
    assert speeds is not None
    assert set(speeds.mean_ms) == {"fp32", "fp16", "int8", "fp8"}
    assert speeds.ratio("int8", "fp16") == pytest.approx(1 / 0.8, rel=1e-4)  # rounded to 0.01 µs


def test_an_interval_beyond_the_limit_is_a_caveat(results):
    loses("fp8", 0.009)(results)
    (caveat,) = verdict(results).caveats
    assert caveat == "1,234 examples cannot exclude a loss of 1.80 %, over the limit of 1.00 %"


def test_without_a_gate_the_limit_is_said(results):
    results["config"]["max_drop"] = None
    assert verdict(results).caveats[0].startswith("no --max-drop was set, so the limit is taken")


def test_nothing_but_fp32_is_no_precision_to_ship(results):
    results.update(compare={}, accuracy={"fp32": results["accuracy"]["fp32"]})
    assert verdict(results).headline == "Nothing to ship: only FP32 ran"
    assert verdict(results).readiness is Readiness.BLOCKED


def test_where_all_are_out_the_verdict_says_why_and_what_to_try(results):
    for name in ("fp8", "int8", "fp16"):
        loses(name, 0.05)(results)
    results["config"].update(max_drop=None)
    first(results, 400)
    found = verdict(results)
    assert (found.headline, found.readiness) == ("Ship none of these yet", Readiness.BLOCKED)
    assert dict(found.others)["int8"] == "accuracy loses 5.00 % of FP32's, limit 1.00 %"
    assert [each.partition(":")[0] for each in found.missing] == [
        *("the other examples", "a recipe that loses less"),
    ]
    assert len(found.caveats) == 1
