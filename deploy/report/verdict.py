"""Which precision to ship, and why: a pure function of results.json.

The rules, in their order:

1. A precision is out where a gate on it does not hold, or where its main metric loses more of
   FP32's value than the limit: that of `--max-drop`, or else 1 %, which is what MLPerf Inference
   asks for in its 99 % category.
2. Where at least two precisions were measured, simulated ones left out, the fastest of those that
   are not out is chosen: by the geometric mean of p50 over all shapes. Within 2 % they are a tie,
   which the widest type wins, since 8 bits that gain nothing only lose; then the smaller drop.
3. Where none were, FP8 comes before INT8 (it keeps accuracy without smoothing), INT8 before FP16;
   but 8 bits that did not fuse come after FP16, for they may well be slower.
4. It is ready to ship if the engine's own accuracy was measured, on all examples, and its latency.
   Otherwise it is provisional, and the verdict names what is missing. It looks at the run whose
   accuracy is shown; what executed the ONNX graph, torch on a GPU included, was no engine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from deploy.bench.crossover import MIN_DIFFERENCE
from deploy.evidence import Run, is_engine, shown_run
from deploy.report.latency import times
from deploy.report.numbers import number, percent, points
from deploy.report.speed import Speeds, measured_speeds

DEFAULT_MAX_DROP = 0.01

_REFERENCE = "fp32"
_UNMEASURED_ORDER = ("fp8", "int8", "fp16", _REFERENCE)
_BITS = {_REFERENCE: 32, "fp16": 16, "int8": 8, "fp8": 8}


class Readiness(str, Enum):
    """How far a precision is from being shipped."""

    READY = "ready"
    PROVISIONAL = "provisional"
    BLOCKED = "blocked"


@dataclass(frozen=True)
class Verdict:
    """What the results say a user should do.

    Attributes:
        precision: The one to ship; None where all are out.
        readiness: Whether it can be shipped now.
        headline: The verdict in one line.
        reasons: What speaks for it, a sentence each.
        caveats: What speaks against it, or limits what is known.
        missing: What has to be done before it ships; empty where it is ready.
        others: Every other precision, and why it was not chosen.
    """

    precision: str | None
    readiness: Readiness
    headline: str
    reasons: tuple[str, ...]
    caveats: tuple[str, ...]
    missing: tuple[str, ...]
    others: tuple[tuple[str, str], ...]


def verdict(results: Mapping[str, Any]) -> Verdict:
    """Decide which precision to ship by the rules of this module."""
    candidates = list(results["compare"])
    out = {name: why for name in candidates if (why := _why_out(results, name))}
    accepted = [name for name in candidates if name not in out]
    speeds = measured_speeds(results)
    chosen = _choose(results, accepted, speeds)
    if chosen is None:
        return Verdict(
            precision=None,
            readiness=Readiness.BLOCKED,
            headline="Ship none of these yet" if candidates else "Nothing to ship: only FP32 ran",
            reasons=(),
            caveats=tuple(_default_limit(results)) if out else (),
            missing=tuple(_missing_instead(results)) if out else (),
            others=tuple(out.items()),
        )
    missing = tuple(_missing(results, chosen, speeds))
    return Verdict(
        precision=chosen,
        readiness=Readiness.PROVISIONAL if missing else Readiness.READY,
        headline=_headline(chosen, missing),
        reasons=tuple(_reasons(results, chosen, speeds)),
        caveats=tuple(_caveats(results, chosen, speeds)),
        missing=missing,
        others=tuple(
            (name, out.get(name) or _why_behind(results, name, chosen, speeds))
            for name in candidates
            if name != chosen
        ),
    )


def accuracy_limit(results: Mapping[str, Any]) -> float:
    """The largest relative drop of the main metric that passes: the gate's, or the default."""
    limit = _max_drop(results)
    return DEFAULT_MAX_DROP if limit is None else limit


def _max_drop(results: Mapping[str, Any]) -> float | None:
    # Results of before `limits` were judged by what the build was asked for.
    limit = results.get("limits", results["config"]).get("max_drop")
    return None if limit is None else float(limit)


def _headline(chosen: str, missing: tuple[str, ...]) -> str:
    if not missing:
        return f"Ship {chosen.upper()}"
    checks = "one check is" if len(missing) == 1 else f"{len(missing)} checks are"
    return f"{chosen.upper()} is the candidate; {checks} missing before it ships"


def _choose(results: Mapping[str, Any], accepted: list[str], speeds: Speeds | None) -> str | None:
    if speeds is not None and any(name in speeds.mean_ms for name in accepted):
        # FP32 takes part: an engine that is no faster than it is not worth having.
        running = [name for name in (*accepted, _REFERENCE) if name in speeds.mean_ms]
        least = min(speeds.mean_ms[name] for name in running)
        ties = [name for name in running if speeds.mean_ms[name] < least * (1 + MIN_DIFFERENCE)]
        return min(ties, key=lambda name: (-_BITS[name], _relative_drop(results, name)))
    return min(
        accepted,
        key=lambda name: (_unfused(results, name), _UNMEASURED_ORDER.index(name)),
        default=None,
    )


def _why_out(results: Mapping[str, Any], precision: str) -> str | None:
    """Why a precision must not be shipped, whatever its speed."""
    failed = [gate for gate in _gates(results, precision) if not gate["passed"]]
    if failed:
        return "; ".join(
            f"gate {gate['name']} does not hold ({number(gate['value'])}, limit "
            f"{number(gate['limit'])})"
            for gate in failed
        )
    drop, limit = _relative_drop(results, precision), accuracy_limit(results)
    if drop > limit:
        return f"{_metric(results)} loses {percent(drop)} % of FP32's, limit {percent(limit)} %"
    return None


def _why_behind(results: Mapping[str, Any], name: str, chosen: str, speeds: Speeds | None) -> str:
    """Why a precision that could be shipped is not the one."""
    if speeds is None:
        if _unfused(results, name) and not _unfused(results, chosen):
            return "acceptable, but not all of it fused, and its latency is not known"
        return f"acceptable too; without latencies, {chosen.upper()} comes first"
    if name not in speeds.mean_ms:
        return "acceptable too, but not measured"
    ratio = speeds.ratio(chosen, name)
    if ratio < 1 + MIN_DIFFERENCE:
        better = "is the wider type" if _BITS[chosen] > _BITS[name] else "loses no more"
        return f"acceptable too; a tie in speed with {chosen.upper()}, which {better}"
    return f"acceptable too; {chosen.upper()} is {times(ratio)} as fast"


def _reasons(results: Mapping[str, Any], chosen: str, speeds: Speeds | None) -> Iterator[str]:
    gates = _gates(results, chosen)
    if gates:
        yield "its gate holds" if len(gates) == 1 else f"all its {len(gates)} gates hold"
    if chosen in results["compare"]:
        compared, metric = results["compare"][chosen], _metric(results)
        value = results["accuracy"][chosen]["metrics"][metric]
        yield (
            f"{metric} {percent(value)} %: {points(compared[metric])} points against FP32, paired "
            f"95 % interval, on {results['accuracy'][chosen]['n']:,} examples"
        )
        yield (
            f"same answer as FP32 on {percent(compared['agreement'])} %, "
            f"{compared['changed']:,} changed"
        )
    fusion = results["fusion"].get(chosen)
    if fusion and not fusion["unfused"] and fusion["expected_gemms"]:
        yield (
            f"all fused: {fusion['quantized_gemms']} of {fusion['expected_gemms']} GEMMs in 8 "
            f"bits, {fusion['fused_attention']} of {fusion['expected_attention']} attentions"
        )
    if speeds is not None and chosen in speeds.mean_ms:
        others = [name for name in speeds.mean_ms if name != chosen]
        compared_with = ", ".join(
            f"{times(speeds.ratio(chosen, o))} as fast as {o}" for o in others
        )
        yield (
            f"fastest at {speeds.fastest[chosen]} of {speeds.shapes} shapes on {speeds.device}: "
            f"{compared_with}, geometric mean of p50"
        )


def _caveats(results: Mapping[str, Any], chosen: str, speeds: Speeds | None) -> Iterator[str]:
    yield from _default_limit(results)
    if chosen in results["compare"]:
        metric, limit = _metric(results), accuracy_limit(results)
        reference = abs(results["accuracy"][_REFERENCE]["metrics"][metric])
        worst = results["compare"][chosen][metric]["ci95"][1]
        if worst > limit * reference:
            yield (
                f"{results['accuracy'][chosen]['n']:,} examples cannot exclude a loss of "
                f"{percent(worst / reference if reference else worst)} %, over the limit of "
                f"{percent(limit)} %"
            )
    fusion = results["fusion"].get(chosen)
    if fusion and fusion["unfused"]:
        yield f"{len(fusion['unfused'])} modules did not fuse in the worst profile"
    if speeds is not None:
        if speeds.losses.get(chosen):
            yield f"slower at {', '.join(speeds.losses[chosen])}"
        if chosen in speeds.doubtful:
            yield "some of its latencies spread too widely to be trusted"


def _default_limit(results: Mapping[str, Any]) -> Iterator[str]:
    if _max_drop(results) is None:
        yield (
            f"no --max-drop was set, so the limit is taken to be {percent(DEFAULT_MAX_DROP)} % of "
            "FP32's value"
        )


def _missing_instead(results: Mapping[str, Any]) -> Iterator[str]:
    """What may help where every precision is out."""
    yield from _missing_evidence(results, _REFERENCE)
    yield "a recipe that loses less: `deploy tune`, docs/tuning.md"


def _missing_evidence(results: Mapping[str, Any], precision: str) -> Iterator[str]:
    """What makes an accuracy doubtful, whatever executed it."""
    if (results.get("labels") or {}).get("suspected_permutation"):
        yield (
            "the order of the labels: FP32 is right less often than by chance; check id2label in "
            "the checkpoint's config.json"
        )
    run, limit = shown_run(results, precision), results["config"].get("limit")
    if "examples_total" in run:
        if run["n"] < run["examples_total"]:
            yield (
                f"the other examples: {run['n']:,} of {run['examples_total']:,} were evaluated; "
                "leave out --limit"
            )
    elif limit is not None and run["n"] <= limit:  # earlier versions did not count the others
        yield f"the other examples: --limit {limit} evaluated only the first"


def _missing(results: Mapping[str, Any], chosen: str, speeds: Speeds | None) -> Iterator[str]:
    yield from _missing_evidence(results, chosen)
    flavours = [each["flavour"] for each in results["engines"] if each["precision"] == chosen]
    backend = f" --backend {flavours[0]}" if flavours else ""
    run = shown_run(results, chosen)
    if run["simulated"] or not is_engine(run["backend"]):
        yield (
            f"the engine's own accuracy: so far {_instead_of_engine(run)}; `deploy "
            f"evaluate{backend}` on the GPU, on all examples"
        )
    if not flavours:
        yield "an engine: none was built; leave out --engine none, or install a TensorRT"
    elif _BITS[chosen] == 8 and chosen not in results["fusion"]:
        yield "what fused: the builder listed no layers; see `deploy inspect`"
    if speeds is None or chosen not in speeds.mean_ms:
        yield (
            "latency against another precision, on the GPU it is for: `deploy bench` in the build "
            "folder"
        )
    elif not is_engine(speeds.backend):
        yield (
            f"the engine's own latency: so far {speeds.backend} ran its graph; `deploy "
            f"bench{backend}` on the GPU"
        )


def _instead_of_engine(run: Run) -> str:
    """What an accuracy comes from that no engine gave."""
    if run["simulated"]:
        return "its codes were multiplied in another arithmetic"
    return f"{run['backend']} executed its graph"


def _gates(results: Mapping[str, Any], precision: str) -> list[Mapping[str, Any]]:
    """The gates on a precision: those that name it, and those that name none."""
    return [
        gate
        for gate in results["gates"]
        if precision in (parts := gate["name"].split(".")) or not _BITS.keys() & set(parts)
    ]


def _metric(results: Mapping[str, Any]) -> str:
    """The main metric."""
    return str(next(iter(results["accuracy"][_REFERENCE]["metrics"])))


def _relative_drop(results: Mapping[str, Any], precision: str) -> float:
    if precision not in results["compare"]:
        return 0.0
    return float(results["compare"][precision][_metric(results)]["relative_drop"])


def _unfused(results: Mapping[str, Any], precision: str) -> bool:
    """Whether an engine is known to lack an 8-bit kernel that its graph asks for."""
    return bool(_BITS[precision] == 8 and results["fusion"].get(precision, {}).get("unfused"))
