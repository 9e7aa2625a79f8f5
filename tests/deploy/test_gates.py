from deploy.engine.fusion import ProfileFusion, Unfused
from deploy.engine.profiles import bucket_profiles
from deploy.engine.session import Precision
from deploy.evaluation.compare import Comparison, Drop
from deploy.evaluation.gates import (
    AccuracyLimits,
    accuracy_gates,
    agreement_gates,
    drop_gates,
    fusion_gates,
    minimum_gates,
    worst_profile,
)

SHORT, LONG = bucket_profiles((64, 128), 8)


def comparison(relative_drop):
    drop = Drop(drop=relative_drop * 0.9, relative_drop=relative_drop, ci95=(0.0, 0.02))
    return Comparison(metric={"accuracy": drop}, agreement=0.98, changed=3)


def fused(profile, gemms, attention):
    missing = (Unfused("a", "unknown"),) * (12 - gemms + 2 - attention)
    return ProfileFusion("sm89", profile, 40, gemms, 12, attention, 2, missing)


def test_a_drop_at_the_limit_passes_and_a_gain_too():
    drops = {Precision.FP8: comparison(0.01), Precision.INT8: comparison(0.0101)}
    fp8, int8 = drop_gates(drops, "accuracy", 0.01)
    assert (fp8.name, fp8.passed) == ("max_drop.fp8.accuracy", True)
    assert (int8.name, int8.passed) == ("max_drop.int8.accuracy", False)
    (gain,) = drop_gates({Precision.FP16: comparison(-0.05)}, "accuracy", 0.0)
    assert gain.passed


def test_fusion_is_judged_by_the_worst_profile():
    profiles = [fused(SHORT, 12, 2), fused(LONG, 12, 0)]
    assert worst_profile(profiles) is profiles[1]
    (gate,) = fusion_gates({Precision.FP8: profiles}, [Precision.FP8])
    assert (gate.limit, gate.value, gate.passed) == (14.0, 12.0, False)


def test_precisions_without_8_bit_kernels_are_not_held_to_any():
    profiles = [fused(SHORT, 12, 2)]
    gates = fusion_gates({Precision.FP8: profiles}, [Precision.FP32, Precision.FP16, Precision.FP8])
    assert [gate.name for gate in gates] == ["fusion.fp8"]


def test_unknown_fusion_does_not_pass():
    (gate,) = fusion_gates({}, [Precision.FP8])
    assert gate.value is None
    assert not gate.passed


def test_a_minimum_holds_for_every_metric_named_in_every_precision():
    metrics = {
        Precision.FP8: {"accuracy": 0.9, "f1": 0.84},
        Precision.INT8: {"accuracy": 0.91, "f1": 0.86},
    }
    gates = minimum_gates(metrics, {"accuracy": 0.9, "f1": 0.85})
    assert [(gate.name, gate.value, gate.passed) for gate in gates] == [
        ("min.fp8.accuracy", 0.9, True),
        ("min.fp8.f1", 0.84, False),
        ("min.int8.accuracy", 0.91, True),
        ("min.int8.f1", 0.86, True),
    ]


def test_agreement_at_the_limit_passes():
    comparisons = {Precision.FP8: comparison(0.5)}
    (at,) = agreement_gates(comparisons, 0.98)
    assert (at.name, at.limit, at.value, at.passed) == ("min_agreement.fp8", 0.98, 0.98, True)
    (above,) = agreement_gates(comparisons, 0.981)
    assert not above.passed


def test_what_is_not_limited_has_no_gate():
    comparisons, metrics = {Precision.FP8: comparison(0.5)}, {Precision.FP8: {"accuracy": 0.1}}
    assert accuracy_gates(AccuracyLimits(), "accuracy", metrics, comparisons) == ()
    limits = AccuracyLimits(0.01, {"accuracy": 0.9}, 0.99)
    gates = accuracy_gates(limits, "accuracy", metrics, comparisons)
    assert [gate.passed for gate in gates] == [False] * 3
