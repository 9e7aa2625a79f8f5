"""Units, what they save, and the search over them: on paper, without a model."""

from __future__ import annotations

from dataclasses import replace

import pytest

from calib_data.progress import SilentProgress
from deploy.engine.profiles import Shape
from deploy.tune.models import SharedBar
from deploy.tune.roofline import H100_SXM, Encoder, benefit, seconds, unit_work
from deploy.tune.search import most_steps, search
from deploy.tune.units import find_units, with_fallbacks
from export.architectures import get_architecture
from export.errors import RecipeError
from export.recipe import (
    PRESETS,
    select_sites,
)
from export.sites import ATTENTION_KINDS, encoder_sites


def units_of(recipe="int8", model_type="bert", layers=2):
    architecture = get_architecture(model_type)
    return find_units(PRESETS[recipe], encoder_sites(architecture, layers), architecture)


@pytest.mark.parametrize("model_type", ["bert", "distilbert"])
def test_a_unit_is_the_smallest_thing_that_can_fall_back(model_type):
    sites = encoder_sites(get_architecture(model_type), 2)
    units = units_of(model_type=model_type)
    roles = ["qkv", "attention", "attention out", "ffn in", "ffn out"]
    assert [unit.name for unit in units] == [f"{i} {role}" for i in (0, 1) for role in roles]
    quantized = select_sites(PRESETS["int8"], sites)
    assert [site for unit in units for site in unit.sites] == list(quantized)
    for unit in units:
        kinds = {site.kind for site in unit.sites}
        assert (kinds == ATTENTION_KINDS) is (unit.role == "attention")
        left = select_sites(with_fallbacks(PRESETS["int8"], [unit], "tuned"), sites)
        assert set(quantized) - set(left) == set(unit.sites)
        for site in unit.sites:
            part = replace(unit, sites=tuple(each for each in unit.sites if each != site))
            with pytest.raises(RecipeError):
                select_sites(with_fallbacks(PRESETS["int8"], [part], "tuned"), sites)


def test_a_residual_and_a_gelu_input_can_each_fall_back_alone():
    units = units_of("fp8-mlperf", layers=1)
    free = {unit.role: [site.name.rpartition(".")[2] for site in unit.sites] for unit in units}
    assert len(units) == 8
    assert free["ffn in gelu"] == ["output"]
    assert free["attention out residual"] == free["ffn out residual"] == ["residual"]


def test_what_the_base_recipe_leaves_out_is_no_unit():
    architecture = get_architecture("bert")
    sites = encoder_sites(architecture, 2)
    assert {unit.role for unit in units_of("int8-naive")} == {
        "qkv",
        "attention out",
        "ffn in",
        "ffn out",
    }
    recipe = replace(PRESETS["fp8"], exclude=("bert.encoder.layer.0.*",))
    units = find_units(recipe, sites, architecture)
    assert {unit.layer for unit in units} == {1}
    # Its own exclusions stay when a unit joins them.
    assert len(select_sites(with_fallbacks(recipe, units, "tuned"), sites)) == 0


def test_the_roofline_agrees_with_arithmetic_done_by_hand():
    base = {"query": (768, 768), "key": (768, 768), "value": (768, 768)}
    paths = {
        **{f"attention.self.{name}": shape for name, shape in base.items()},
        "attention.output.dense": (768, 768),
        "intermediate.dense": (768, 3072),
        "output.dense": (3072, 768),
    }
    weights = {
        f"bert.encoder.layer.{layer}.{path}": shape
        for layer in range(12)
        for path, shape in paths.items()
    }
    encoder = Encoder(weights, attention_width=768)
    units = {unit.name: unit for unit in units_of(layers=12)}
    large = {name: unit_work(unit, encoder, Shape(32, 128)) for name, unit in units.items()}
    # The published bound of BERT-base at H100's dense FP16 peak.
    total = sum(work.flops for work in large.values()) / H100_SXM.flops_16bit
    assert total == pytest.approx(0.72e-3, rel=0.01)
    # Bound by arithmetic: 2 * 4096 * 768 * 3072 operations, at twice the rate.
    assert benefit(large["0 ffn in"], H100_SXM) == pytest.approx(9.77e-6, rel=0.001)
    # Bound by traffic: q, k and v of 4096 x 768, a byte less each.
    saved = 3 * 4096 * 768 / 3.35e12
    assert benefit(large["0 attention"], H100_SXM) == pytest.approx(saved, rel=0.001)
    # One short row: what counts is the weight, and the batch no longer matters.
    small = unit_work(units["0 ffn in"], encoder, Shape(1, 8))
    assert seconds(small, H100_SXM, quantized=True) < 0.53 * seconds(small, H100_SXM, False)


def drop_by(harm):
    """A metric to which each quantized unit adds its own drop; notes what is asked of it."""
    asked = []

    def drop_of(fallbacks):
        asked.append(fallbacks)
        return sum(loss for unit, loss in harm.items() if unit not in fallbacks)

    return drop_of, asked


def test_search_gives_up_the_shortest_sufficient_prefix():
    units = units_of(layers=4)
    harm = {unit: 0.05 / (1 + index) for index, unit in enumerate(units)}
    for prefix in range(len(units) + 1):
        limit = sum(harm[unit] for unit in units[prefix:]) + 1e-9
        drop_of, asked = drop_by(harm)
        found = search(units, drop_of, limit)
        assert (found.fallbacks, found.met) == (units[:prefix], True)
        assert found.drop == pytest.approx(limit, abs=1e-8)
        assert len(asked) == len(found.steps) <= most_steps(len(units))


def test_search_keeps_quantized_what_its_place_alone_carried_along():
    units = units_of()
    drop_of, _ = drop_by({units[0]: 0.1, units[4]: 0.1})
    found = search(units, drop_of, 0.05)
    assert found.fallbacks == (units[0], units[4])


def test_search_changes_nothing_where_nothing_is_lost():
    drop_of, asked = drop_by({})
    found = search(units_of(), drop_of, 0.0)
    assert (found.fallbacks, found.met, len(asked)) == ((), True, 1)


def test_search_says_when_even_high_precision_loses_too_much():
    units = units_of()
    found = search(units, lambda _: 0.2, 0.1)
    assert (found.fallbacks, found.met, found.drop) == (units, False, 0.2)


def test_one_bar_counts_the_batches_of_all_runs():
    class Recorder(SilentProgress):
        passed = 0

        def track(self, items, description, total):
            assert (description, total) == ("Measuring", 12)
            for item in items:
                self.passed += 1
                yield item

    recorder, bar = Recorder(), SharedBar()
    with bar.over(recorder, "Measuring", 12):
        for _ in range(3):
            assert list(bar.track("abcd", "one run", 4)) == list("abcd")
    assert recorder.passed == 12
    # Out of steps, or without a bar, the work goes on.
    assert list(bar.track("ab", "one more", 2)) == ["a", "b"]
