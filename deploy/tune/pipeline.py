"""A tuning run: measure every unit on training rows, search, then look at the dev set once."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from calib_data.blocks import as_blocks
from calib_data.features import tokenize
from calib_data.progress import Progress, SilentProgress
from calib_data.sampler import split_sample
from deploy.artifacts import check_writable, hold_folder, write_json, write_text
from deploy.engine.profiles import Shape, bucket_profiles
from deploy.engine.session import Precision
from deploy.environment import describe_environment
from deploy.errors import EvaluationError
from deploy.evaluation.compare import Comparison, compare
from deploy.evaluation.deviation import Deviation, Reference, run_deviation, run_reference
from deploy.evaluation.harness import EvaluationSet, Run, batches_for, evaluate
from deploy.inputs import BuildInputs, load_inputs
from deploy.paths import scratch_prefix
from deploy.stages.calibrate import calibration_rows
from deploy.tune.config import TuneConfig
from deploy.tune.models import Models, SharedBar
from deploy.tune.plot import plot_sensitivity
from deploy.tune.results import BASE, TUNED, TuneOutcome, outcome_to_dict, recipe_file
from deploy.tune.roofline import H100_SXM, Encoder, benefit, unit_work
from deploy.tune.search import Found, most_steps, search
from deploy.tune.sensitivity import Measure, Sensitivity, measure_units
from deploy.tune.units import Unit, find_units, with_fallbacks
from export.calibrate import calibrate
from export.checkpoint import Checkpoint, load_weights
from export.onnx_export import export_onnx
from export.onnx_file import write_onnx
from export.recipe import QuantRecipe
from export.sites import SiteKind, encoder_sites
from export.verify import verify_export

_LOG = logging.getLogger(__name__)

RECIPE_FILE = "recipe.yaml"
TUNE_FILE = "tune.json"
PLOT_FILE = "sensitivity.svg"


def tune(config: TuneConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Search the fastest recipe that meets `config.max_drop`, into `config.build.out`.

    Every choice rests on training rows that did not calibrate. The development set is loaded at
    the start, so that a missing file does not cost a search, and run at the end, once.

    Args:
        config: What to tune.
        progress: Told about everything that takes over a second.

    Returns:
        The content of tune.json. Gates that do not hold stand in it; they raise nothing.

    Raises:
        ToolchainError: Whatever the user has to mend; see its remedy.
    """
    progress = progress or SilentProgress()
    started = time.monotonic()
    out = config.build.out
    check_writable(out)
    inputs = load_inputs(config.build, progress)
    checkpoint = load_weights(inputs.checkpoint)
    rows = tuning_rows(config, inputs, progress)
    units = _units(config, checkpoint)
    benefits = _benefits(config, inputs, checkpoint, units)
    with hold_folder(out), tempfile.TemporaryDirectory(prefix=scratch_prefix()) as scratch:
        fp32 = Path(scratch) / "model.fp32.onnx"
        with progress.status("Exporting to ONNX"):
            write_onnx(export_onnx(checkpoint, inputs.task.head), fp32)
            verify_export(checkpoint, fp32, inputs.task.head)
        calibration = calibration_rows(config.build, inputs, progress)
        table = calibrate(checkpoint, inputs.task, calibration, progress)
        profiles = bucket_profiles(inputs.buckets, config.build.max_batch)
        models = Models(config, fp32, table, profiles, rows.pad_token_id)
        reference = run_reference(
            models.open(None), rows, progress, f"Evaluating fp32 on {len(rows.examples)} rows"
        )
        ranked, found, measure = _choose(config, models, reference, units, benefits, progress)
        recipe = with_fallbacks(config.base, found.fallbacks, f"{config.base.name}-tuned")
        runs, comparisons = _report(models, inputs.dev, recipe, progress)
        outcome = TuneOutcome(
            config=config,
            task=inputs.task.identity,
            recipe=recipe,
            units=ranked,
            found=found,
            rows=len(rows.examples),
            reference=reference.metrics,
            base=measure(frozenset()),
            tuned=measure(frozenset(found.fallbacks)),
            gpu=H100_SXM,
            shape=_shape(config, inputs),
            runs=runs,
            comparisons=comparisons,
            environment=describe_environment(),
            seconds=time.monotonic() - started,
        )
        results = outcome_to_dict(outcome)
        write_text(out / RECIPE_FILE, recipe_file(outcome))
        write_text(out / PLOT_FILE, plot_sensitivity(results))
        write_json(out / TUNE_FILE, results)
    return results


def tuning_rows(config: TuneConfig, inputs: BuildInputs, progress: Progress) -> EvaluationSet:
    """Training rows to measure on: none of them is among those that calibrate.

    Raises:
        EvaluationError: Calibration takes every training row.
    """
    build = config.build
    _, examples = split_sample(inputs.train, (build.calib_samples, config.tune_samples), build.seed)
    if not examples:
        raise EvaluationError(
            f"calibration takes all {len(inputs.train)} training examples, none is left to tune on",
            "lower --calib-samples",
        )
    if len(examples) < config.tune_samples:
        _LOG.warning(
            "tuning on %d examples, all that calibration leaves: --tune-samples asks for %d",
            len(examples),
            config.tune_samples,
        )
    tokenizer = inputs.checkpoint.tokenizer
    features = tokenize(inputs.task, tokenizer, examples, inputs.max_length, progress)
    return EvaluationSet(inputs.task, examples, as_blocks(features), tokenizer.pad_token_id)


def _units(config: TuneConfig, checkpoint: Checkpoint) -> tuple[Unit, ...]:
    sites = encoder_sites(checkpoint.architecture, checkpoint.layers)
    return find_units(config.base, sites, checkpoint.architecture)


def _shape(config: TuneConfig, inputs: BuildInputs) -> Shape:
    """Where 8 bits matter most: small batches gain nothing that a choice could be based on."""
    return Shape(config.build.max_batch, inputs.buckets[-1])


def _benefits(
    config: TuneConfig, inputs: BuildInputs, checkpoint: Checkpoint, units: Iterable[Unit]
) -> dict[Unit, float]:
    linears: dict[str, Any] = {
        site.modules[0]: checkpoint.model.get_submodule(site.modules[0])
        for site in encoder_sites(checkpoint.architecture, checkpoint.layers)
        if site.kind is SiteKind.LINEAR_WEIGHT
    }
    encoder = Encoder(
        weights={
            name: (linear.in_features, linear.out_features) for name, linear in linears.items()
        },
        attention_width=checkpoint.heads * checkpoint.head_dim,
    )
    shape = _shape(config, inputs)
    return {unit: benefit(unit_work(unit, encoder, shape), H100_SXM) for unit in units}


def _choose(
    config: TuneConfig,
    models: Models,
    reference: Reference,
    units: tuple[Unit, ...],
    benefits: Mapping[Unit, float],
    progress: Progress,
) -> tuple[tuple[Sensitivity, ...], Found, Measure]:
    """Rank the units and search; all that is known here is the tuning rows."""
    data = reference.data
    per_run = len(batches_for(models.profiles, data.features))
    ticks = SharedBar()

    @cache
    def measure(fallbacks: frozenset[Unit]) -> Deviation:
        # Sorted, so that a graph does not depend on the order of a set.
        ordered = sorted(fallbacks, key=units.index)
        session = models.open(with_fallbacks(config.base, ordered, "candidate"))
        return run_deviation(session, reference, ticks, "")

    metric = data.task.metrics[0]
    runs = 2 + 2 * len(units)
    with ticks.over(progress, f"Measuring {len(units)} units", runs * per_run):
        ranked = measure_units(units, measure, benefits)
    with ticks.over(progress, "Searching", most_steps(len(units)) * per_run):
        found = search(
            [each.unit for each in ranked],
            lambda fallbacks: measure(fallbacks).comparison.metric[metric].relative_drop,
            config.max_drop,
        )
    return ranked, found, measure


def _report(
    models: Models, dev: EvaluationSet, recipe: QuantRecipe, progress: Progress
) -> tuple[dict[str, Run], dict[str, Comparison]]:
    """Evaluate FP32, the base recipe and the tuned one on the development set."""
    base, precision = models.config.base, models.config.precision
    fp32 = evaluate(models.open(None), Precision.FP32, None, dev, progress)
    runs = {Precision.FP32.value: fp32}
    runs[BASE] = evaluate(models.open(base), precision, base.name, dev, progress)
    runs[TUNED] = (
        evaluate(models.open(recipe), precision, recipe.name, dev, progress)
        if recipe.exclude != base.exclude
        else replace(runs[BASE], recipe=recipe.name)  # nothing fell back: the same model
    )
    return runs, {
        name: compare(dev.task, dev.examples, fp32.predictions, runs[name].predictions)
        for name in (BASE, TUNED)
    }
