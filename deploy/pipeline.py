"""The build: checkpoint -> ONNX -> calibration -> Q/DQ -> engines -> evaluation -> results."""

from __future__ import annotations

import hashlib
import logging
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from calib_data.features import tokenize
from calib_data.progress import Progress, SilentProgress
from calib_data.sampler import CalibrationSet, fingerprint, sample_examples
from calib_data.tasks import Task
from deploy.artifacts import (
    SCHEMA_VERSION,
    BuildFolder,
    check_writable,
    clear_previous,
    file_hashes,
    make_folder,
    open_build_folder,
    update_manifest,
    write_bytes,
    write_json,
    write_text,
)
from deploy.config import BuildConfig, config_to_dict
from deploy.engine.builder import BuiltEngine, EngineSpec, Flavour, build_engine
from deploy.engine.fusion import ProfileFusion, fusion_by_profile
from deploy.engine.layer_report import report_build, report_to_json
from deploy.engine.opening import best_backend
from deploy.engine.plan import PlanInfo, write_plan
from deploy.engine.profiles import bucket_profiles
from deploy.engine.session import Precision
from deploy.environment import describe_environment, find_gpus
from deploy.errors import EngineError
from deploy.evaluation.gates import Gate, accuracy_gates, fusion_gates
from deploy.evaluation.harness import Run
from deploy.evaluation.label_order import seems_permuted
from deploy.evaluation.results import examples_to_dict
from deploy.evaluation.stage import (
    Evaluation,
    ModelToEvaluate,
    evaluate_models,
    forget_progress,
    model_hashes,
)
from deploy.inputs import BuildInputs, load_inputs
from deploy.logs import build_log
from deploy.report.writing import write_reports
from deploy.results import BuildOutcome, EngineFile, LabelOrder, results_to_dict
from export.calibrate import calibrate, calibration_source
from export.calibration_table import CalibrationTable, read_table, table_to_json
from export.checkpoint import Checkpoint
from export.errors import CalibrationError
from export.onnx_export import export_onnx
from export.onnx_file import check_onnx, read_onnx, write_onnx
from export.precision import FloatType, cast_floats
from export.qdq import insert_qdq
from export.recipe import QuantRecipe
from export.verify import verify_export
from export.wide import warn_of_wide_tensors, wide_values

_LOG = logging.getLogger(__name__)


@dataclass
class _Clock:
    """Seconds that each stage took."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - started, 3)
        _LOG.info("%s: %.1f s", name, self.seconds[name])


def build(config: BuildConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Run a whole build into `config.out`.

    Args:
        config: What to build.
        progress: Told about everything that takes over a second.

    Returns:
        The content of results.json. Gates that do not hold stand in it; they raise nothing.

    Raises:
        ToolchainError: Whatever the user has to mend; see its remedy.
    """
    progress = progress or SilentProgress()
    clock = _Clock()
    check_writable(config.out)
    with clock.stage("load"):
        inputs = load_inputs(config, progress)
    with open_build_folder(config.out) as folder, build_log(folder.path):
        known = _known_table(folder, inputs.checkpoint)
        clear_previous(folder)
        with clock.stage("export"), progress.status("Exporting to ONNX"):
            parity = _export(folder, inputs)
        table = None
        if any(precision.calibrated for precision in config.precision):
            with clock.stage("calibrate"):
                table = calibrate_inputs(config, inputs, known, progress)
                write_text(folder.calibration, table_to_json(table))
        with clock.stage("quantize"), progress.status("Inserting Q/DQ"):
            _write_precisions(config, folder, table)
        with clock.stage("compile"):
            engines, fusion = _compile(config, folder, inputs, progress)
        manifest = _manifest(config, folder, inputs, parity)
        # What an evaluation opens is checked against the manifest; the folder stays unfinished.
        write_json(folder.manifest, manifest)
        with clock.stage("evaluate"):
            evaluation = _evaluate(config, folder, inputs, manifest, progress)
        results = results_to_dict(
            BuildOutcome(
                # A user of the folder has to know which buckets the task's default came to.
                config=replace(config, buckets=inputs.buckets),
                task=inputs.task,
                labels=label_order(inputs, evaluation.runs[0]),
                model_fingerprint=inputs.checkpoint.fingerprint,
                data_fingerprint=fingerprint(inputs.dev.features),
                onnx_bytes=_onnx_sizes(config, folder),
                calibration=table,
                evaluation=evaluation,
                engines=engines,
                fusion=fusion,
                gates=_gates(config, inputs.task, evaluation, fusion),
                environment=describe_environment(),
            )
        )
        write_json(folder.results, results)
        write_json(folder.examples, examples_to_dict({}, results, evaluation))
        reports = write_reports(folder, results)
        stages = {name: {"seconds": seconds} for name, seconds in clock.seconds.items()}
        write_json(folder.manifest, {**manifest, "stages": stages})
        update_manifest(folder, (folder.results, folder.examples, *reports))
        forget_progress(folder, evaluation)
    return results


def _export(folder: BuildFolder, inputs: BuildInputs) -> float:
    """Write the FP32 model and the tokenizer; return the parity error against torch."""
    path = folder.onnx(Precision.FP32.value)
    write_onnx(export_onnx(inputs.checkpoint, inputs.task.head), path)
    check_onnx(path)
    _save_tokenizer(inputs.checkpoint, folder)
    return verify_export(inputs.checkpoint, path, inputs.task.head)


def _save_tokenizer(checkpoint: Checkpoint, folder: BuildFolder) -> None:
    # File by file: the folder may hold something of the user's, and only whole files appear.
    with tempfile.TemporaryDirectory() as staging:
        checkpoint.tokenizer.save_pretrained(staging)
        make_folder(folder.tokenizer)
        for file in sorted(Path(staging).rglob("*")):
            if file.is_file():
                write_bytes(folder.tokenizer / file.name, file.read_bytes())


def _known_table(folder: BuildFolder, checkpoint: Checkpoint) -> CalibrationTable | None:
    """The table of an earlier build of the same model, if there is one."""
    try:
        return read_table(folder.calibration, checkpoint.fingerprint)
    except CalibrationError:
        return None


def calibrate_inputs(
    config: BuildConfig, inputs: BuildInputs, known: CalibrationTable | None, progress: Progress
) -> CalibrationTable:
    """Calibrate, or take the known table where it was made from the very same rows.

    The rows are the first that `split_sample` draws with the configuration's seed.
    """
    examples = sample_examples(inputs.train, config.calib_samples, config.seed)
    if len(examples) < config.calib_samples:
        _LOG.warning(
            "calibrating on %d examples, all there are: --calib-samples asks for %d",
            len(examples),
            config.calib_samples,
        )
    features = tokenize(
        inputs.task, inputs.checkpoint.tokenizer, examples, inputs.max_length, progress
    )
    data = CalibrationSet(features, config.seed, fingerprint(features))
    if known is not None and known.source == calibration_source(
        inputs.checkpoint, inputs.task, data
    ):
        _LOG.info("calibration: the same model and rows as before, taken over")
        return known
    return calibrate(inputs.checkpoint, inputs.task, data, progress)


def _write_precisions(
    config: BuildConfig, folder: BuildFolder, table: CalibrationTable | None
) -> None:
    """Derive every other precision from the FP32 graph."""
    if table is None:  # nothing but FP32 was asked for
        return
    carried = {
        precision: config.high_precision if precision.quantized else FloatType.FP16
        for precision in config.precision
        if precision.calibrated
    }
    for float_type in sorted(set(carried.values())):
        warn_of_wide_tensors(table.carried, float_type)
    for precision, float_type in carried.items():
        recipe = config.recipe_for(precision) if precision.quantized else None
        path = folder.onnx(precision.value)
        write_precision(folder.onnx(Precision.FP32.value), path, recipe, table, float_type)
        check_onnx(path)


def write_precision(
    fp32: Path, path: Path, recipe: QuantRecipe | None, table: CalibrationTable, carried: FloatType
) -> None:
    """Derive a model of lower precision from the FP32 one.

    Args:
        fp32: The model as `export_onnx` made it.
        path: Where the new one goes.
        recipe: Which sites are quantized, and how; None for nothing.
        table: Calibration of the same checkpoint.
        carried: Type of scales and of everything that is not quantized.
    """
    model = read_onnx(fp32)
    if recipe is not None:
        insert_qdq(model, recipe, table, carried)
    cast_floats(model, carried, wide_values(model, table.carried, carried))
    write_onnx(model, path)


def _compile(
    config: BuildConfig, folder: BuildFolder, inputs: BuildInputs, progress: Progress
) -> tuple[list[EngineFile], dict[Precision, list[ProfileFusion]]]:
    engines: list[EngineFile] = []
    fusion: dict[Precision, list[ProfileFusion]] = {}
    if inputs.flavour is None:
        return engines, fusion
    profiles = bucket_profiles(inputs.buckets, config.max_batch)
    for precision in config.precision:
        for target in inputs.targets:
            spec = EngineSpec(
                onnx=folder.onnx(precision.value),
                flavour=inputs.flavour,
                profiles=profiles,
                # Datacenter TensorRT builds for the GPU it runs on, and cannot be told another.
                target=target if inputs.flavour is Flavour.TENSORRT_RTX else None,
                options=config.builder_options,
            )
            built = build_engine(spec, progress)
            info = _plan_info(config, inputs, precision, target, spec, built)
            path = write_plan(folder, info, built.plan)
            engines.append(
                EngineFile(
                    precision=precision,
                    flavour=inputs.flavour.value,
                    version=built.version,
                    target=target,
                    file=path.relative_to(folder.path).as_posix(),
                    bytes=len(built.plan),
                    seconds=round(built.seconds, 3),
                )
            )
            fusion.setdefault(precision, []).extend(
                _fusion(folder.layers(precision.value, target), spec, built, precision, target)
            )
    return engines, {precision: found for precision, found in fusion.items() if found}


def _plan_info(
    config: BuildConfig,
    inputs: BuildInputs,
    precision: Precision,
    target: str,
    spec: EngineSpec,
    built: BuiltEngine,
) -> PlanInfo:
    tuned_on = find_gpus()[0] if spec.target is None else None
    return PlanInfo(
        sha256=hashlib.sha256(built.plan).hexdigest(),
        bytes=len(built.plan),
        precision=precision,
        recipe=config.recipe_for(precision).name if precision.quantized else None,
        flavour=spec.flavour,
        tensorrt_version=built.version,
        target=target,
        gpu=tuned_on.name if tuned_on else None,
        driver=tuned_on.driver if tuned_on else None,
        profiles=spec.profiles,
        pad_token_id=inputs.dev.pad_token_id,
        hardware_compatibility=spec.options.hardware_compatibility,
        version_compatible=spec.options.version_compatible,
    )


def _fusion(
    path: Path, spec: EngineSpec, built: BuiltEngine, precision: Precision, target: str
) -> tuple[ProfileFusion, ...]:
    """Write the plan's layers, and hold them against the graph.

    Returns:
        Nothing where the layers cannot be read, since the plan is good.
    """
    try:
        report = report_build(spec, built, target, precision.value, read_onnx(spec.onnx))
        write_text(path, report_to_json(report))
        if report.expected is None:
            return ()
        return fusion_by_profile(report.layers, report.expected, report.profiles, target)
    except EngineError as error:
        _LOG.warning("fusion of %s is unknown: %s", spec.onnx.name, error.message)
        return ()


def _evaluate(
    config: BuildConfig,
    folder: BuildFolder,
    inputs: BuildInputs,
    manifest: Mapping[str, Any],
    progress: Progress,
) -> Evaluation:
    models = [
        ModelToEvaluate(
            precision=precision,
            recipe=config.recipe_for(precision).name if precision.quantized else None,
            hashes=model_hashes(manifest, precision),
        )
        for precision in dict.fromkeys((Precision.FP32, *config.precision))
    ]
    return evaluate_models(
        folder,
        models,
        config.backend or best_backend(folder, config.precision),
        bucket_profiles(inputs.buckets, config.max_batch),
        inputs.dev,
        progress,
    )


def label_order(inputs: BuildInputs, fp32: Run) -> LabelOrder | None:
    """How the model's outputs were tied to the labels; warns where that seems to be wrong."""
    task = inputs.task
    if not task.labels:
        return None
    known = inputs.checkpoint.label_order
    suspected = known is None and seems_permuted(task, inputs.dev.examples, fp32.predictions)
    if suspected:
        _LOG.warning(
            "labels may be permuted: fp32 is right far less often than by chance, and the model "
            "does not name its labels; if so, write id2label into its config.json (labels of %s: "
            "%s)",
            task.name,
            ", ".join(task.labels),
        )
    return LabelOrder(task.labels, known, suspected)


def _gates(
    config: BuildConfig,
    task: Task,
    evaluation: Evaluation,
    fusion: Mapping[Precision, Sequence[ProfileFusion]],
) -> tuple[Gate, ...]:
    metrics = {run.precision: run.metrics for run in evaluation.runs}
    gates = accuracy_gates(
        config.accuracy_limits,
        task.metrics[0],
        {precision: metrics[precision] for precision in config.precision},
        evaluation.comparisons,
    )
    if config.require_fusion:
        gates += fusion_gates(fusion, config.precision)
    return gates


def _onnx_sizes(config: BuildConfig, folder: BuildFolder) -> dict[Precision, int]:
    precisions = dict.fromkeys((Precision.FP32, *config.precision))
    return {precision: folder.onnx(precision.value).stat().st_size for precision in precisions}


def _manifest(
    config: BuildConfig, folder: BuildFolder, inputs: BuildInputs, parity: float
) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "config": config_to_dict(config),
        "model_fingerprint": inputs.checkpoint.fingerprint,
        "data_fingerprint": fingerprint(inputs.dev.features),
        "export_relative_error": parity,
        "environment": describe_environment(),
        "files": file_hashes(folder),
    }
