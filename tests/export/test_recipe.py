import pytest
import yaml

from export.architectures import get_architecture
from export.errors import RecipeError
from export.recipe import (
    PRESETS,
    load_recipe,
    recipe_from_dict,
    recipe_to_dict,
    select_sites,
)
from export.sites import SiteKind, encoder_sites

SITES = encoder_sites(get_architecture("bert"), 2)
LAYER = "bert.encoder.layer.0"


def changed(name="fp8", **changes):
    return {**recipe_to_dict(PRESETS[name]), **changes}


@pytest.mark.parametrize("name", PRESETS)
def test_recipe_survives_its_file(name, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe_to_dict(PRESETS[name])))
    assert load_recipe(str(path)) == PRESETS[name]


@pytest.mark.parametrize("name", ["fp8", "int8"])
def test_default_presets_quantize_every_linear_and_every_attention(name):
    optional = {SiteKind.RESIDUAL_INPUT, SiteKind.GELU_INPUT}
    chosen = select_sites(PRESETS[name], SITES)
    assert chosen == tuple(site for site in SITES if site.kind not in optional)


def test_mlperf_quantizes_residuals_and_gelu_inputs_too():
    assert select_sites(PRESETS["fp8-mlperf"], SITES) == SITES


def test_naive_int8_leaves_attention_in_high_precision():
    chosen = select_sites(PRESETS["int8-naive"], SITES)
    linears = {SiteKind.LINEAR_INPUT, SiteKind.LINEAR_WEIGHT}
    assert chosen == tuple(site for site in SITES if site.kind in linears)


def test_excluding_an_attention_keeps_the_rest():
    recipe = recipe_from_dict(changed(exclude=[f"{LAYER}.attention.self.[qkpv]"]))
    chosen = {site.name for site in select_sites(recipe, SITES)}
    every = {site.name for site in select_sites(PRESETS["fp8"], SITES)}
    assert every - chosen == {f"{LAYER}.attention.self.{role}" for role in "qkpv"}
    assert f"{LAYER}.attention.self.query.weight" in chosen


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (f"{LAYER}.attention.self.p", "only a part"),
        (f"{LAYER}.output.dense.weight", "only a part"),
        (f"{LAYER}.attention.self.query.weight", "only a part"),
        ("bert.pooler.*", "matches no site"),
    ],
)
def test_exclusions_that_tear_an_operation_apart(pattern, message):
    recipe = recipe_from_dict(changed(exclude=[pattern]))
    with pytest.raises(RecipeError, match=message):
        select_sites(recipe, SITES)


def without(*kinds):
    plain = changed()
    return {**plain, "kinds": {k: v for k, v in plain["kinds"].items() if k not in kinds}}


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        (without("attention_q"), "a part of attention, without attention_q"),
        (without("attention_q", "attention_k", "attention_v"), "a part of attention"),
        (without("linear_weight"), "only one operand"),
        (
            changed(kinds={**changed()["kinds"], "attention_q": {"granularity": "per-channel"}}),
            "per-channel scales on attention_q",
        ),
        (
            changed(
                kinds={**changed()["kinds"], "linear_input": {"calibrator": {"method": "entropy"}}}
            ),
            "entropy calibration of FP8",
        ),
        (
            changed(kinds={**changed()["kinds"], "linear_input": {"format": "int8"}}),
            "a format of its own",
        ),
        (changed(smoothquant=1.5), r"outside \(0, 1\)"),
    ],
)
def test_recipes_that_no_engine_runs_well(plain, message):
    with pytest.raises(RecipeError, match=message):
        recipe_from_dict(plain)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1, 2]",
        "name: x",
        "{name: x, format: fp4, kinds: {}}",
        "{name: x, format: fp8, kinds: {linear_bias: {}}}",
        "{name: x, format: fp8, kinds: {}, foramt: int8}",
        "{name: x, format: fp8, kinds: {linear_input: {calibrator: {method: percentile}}}}",
        "{name: x, format: int8, kinds: {linear_input: "
        "{calibrator: {method: percentile, percentile: 999}}}}",
        "{name: x, format: int8, kinds: {}, smoothquant: much}",
        "{name: x, format: int8, kinds: {}, center_attention: maybe}",
        "a: [",
    ],
)
def test_files_that_are_no_recipe(text, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError):
        load_recipe(str(path))


def test_unknown_name_lists_the_presets():
    with pytest.raises(RecipeError, match="'fp9'") as error:
        load_recipe("fp9")
    assert "int8" in error.value.remedy
