"""The build: checkpoint -> ONNX -> calibration -> Q/DQ -> engines -> evaluation -> results."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from calib_data.demo.model import ensure_demo_model
from calib_data.errors import UsageError
from calib_data.features import tokenize
from calib_data.progress import Progress, SilentProgress
from calib_data.sampler import CalibrationSet, fingerprint, sample_examples
from calib_data.sources import load_examples
from calib_data.tasks import Examples, Split, Task, get_task
from deploy.artifacts import (
    BuildFolder,
    check_writable,
    clear_previous,
    file_hashes,
    open_build_folder,
    write_bytes,
    write_json,
    write_text,
)
from deploy.config import DEMO, BuildConfig, EngineChoice, config_to_dict
from deploy.engine.builder import (
    EngineSpec,
    Flavour,
    build_engine,
    installed_flavours,
    supported_targets,
)
from deploy.engine.layers import ProfileFusion, expected_fusion, fusion_by_profile, parse_layers
from deploy.engine.ort import OrtSession
from deploy.engine.profiles import MIN_FP8_SEQUENCE, bucket_profiles
from deploy.engine.session import Precision
from deploy.environment import describe_environment, gpu_names
from deploy.errors import EngineError
from deploy.evaluate.compare import Comparison, compare
from deploy.evaluate.gates import Gate, drop_gates, fusion_gates
from deploy.evaluate.harness import EvaluationSet, Run, evaluate
from deploy.report.markdown import render_markdown
from deploy.results import BuildOutcome, EngineFile, results_to_dict
from export.calibrate import calibrate
from export.calibration_table import CalibrationTable, table_to_json
from export.checkpoint import Checkpoint, load_checkpoint
from export.onnx_export import export_onnx
from export.onnx_file import check_onnx, read_onnx, write_onnx
from export.precision import FloatType, cast_floats
from export.qdq import insert_qdq
from export.verify import verify_export

_LOG = logging.getLogger(__name__)

# Where E4M3 tensor cores begin (CUDA C++ Programming Guide, table of tensor core types).
_FP8_TARGET = 89


@dataclass(frozen=True)
class _Inputs:
    """What a build works on, read and checked before anything is written."""

    task: Task
    checkpoint: Checkpoint
    buckets: tuple[int, ...]
    dev: EvaluationSet
    train: Examples
    flavour: Flavour | None


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
        inputs = _load(config, progress)
    with open_build_folder(config.out) as folder:
        clear_previous(folder)
        with clock.stage("export"), progress.status("Exporting to ONNX"):
            parity = _export(folder, inputs)
        table = None
        if any(precision.quantized for precision in config.precision):
            with clock.stage("calibrate"):
                table = _calibrate(config, inputs, progress)
                write_text(folder.calibration, table_to_json(table))
        with clock.stage("quantize"), progress.status("Inserting Q/DQ"):
            _write_precisions(config, folder, table)
        with clock.stage("compile"):
            engines, fusion = _compile(config, folder, inputs, progress)
        with clock.stage("evaluate"):
            runs = _evaluate(config, folder, inputs, progress)
            comparisons = _compare(inputs.dev, runs)
        results = results_to_dict(
            BuildOutcome(
                config=config,
                onnx_bytes=_onnx_sizes(config, folder),
                calibration=None if table is None else asdict(table.source),
                runs=runs,
                comparisons=comparisons,
                engines=engines,
                fusion=fusion,
                gates=_gates(config, inputs.task, comparisons, fusion),
                environment=describe_environment(),
            )
        )
        write_json(folder.results, results)
        write_text(folder.report, render_markdown(results))
        _write_manifest(config, folder, inputs, clock, parity)
    return results


def _load(config: BuildConfig, progress: Progress) -> _Inputs:
    task = get_task(config.task)
    flavour = _flavour(config)
    dev = load_examples(task, Split.DEV, config.data_dir)
    quantizes = any(precision.quantized for precision in config.precision)
    train: Examples = load_examples(task, Split.TRAIN, config.data_dir) if quantizes else ()
    if config.limit is not None:
        dev = dev[: config.limit]
    source = str(ensure_demo_model(progress)) if config.model == DEMO else config.model
    with progress.status(f"Loading {config.model}"):
        checkpoint = load_checkpoint(source, task)
    buckets = _buckets(config, task, checkpoint)
    features = tokenize(task, checkpoint.tokenizer, dev, buckets[-1], progress)
    return _Inputs(
        task=task,
        checkpoint=checkpoint,
        buckets=buckets,
        dev=EvaluationSet(task, dev, features, checkpoint.tokenizer.pad_token_id),
        train=train,
        flavour=flavour,
    )


def _flavour(config: BuildConfig) -> Flavour | None:
    """Which TensorRT builds, checked before the long work begins."""
    installed = installed_flavours()
    if config.engine is EngineChoice.NONE:
        return None
    if config.engine is EngineChoice.AUTO:
        # Datacenter TensorRT cannot even create a builder without a GPU.
        usable = [f for f in installed if f is Flavour.TENSORRT_RTX or gpu_names()]
        if not usable:
            _LOG.warning("no TensorRT is installed that can build here: no engine is built")
            return None
        flavour = usable[0]
    else:
        flavour = Flavour(config.engine.value)
        if flavour not in installed:
            raise EngineError(
                f"--engine {flavour.value}: it is not installed",
                f"pip install 'bert-trt-deploy[{flavour.extra}]', or use --engine none",
            )
    if flavour is Flavour.TENSORRT_RTX:
        _check_targets(config, flavour)
    return flavour


def _check_targets(config: BuildConfig, flavour: Flavour) -> None:
    known = supported_targets(flavour)
    for target in config.target:
        if target not in known:
            raise UsageError(
                f"{flavour.value} cannot build for '{target}'",
                f"use --target with any of: {', '.join(known)}",
            )
        if Precision.FP8 in config.precision and int(target.removeprefix("sm")) < _FP8_TARGET:
            raise UsageError(
                f"--target {target} has no FP8 tensor cores",
                "use --target sm89 or newer, or --precision int8",
            )


def _buckets(config: BuildConfig, task: Task, checkpoint: Checkpoint) -> tuple[int, ...]:
    """The sequence buckets: those asked for, or the task's as far as the model has positions."""
    if config.buckets is not None:
        if config.buckets[-1] > checkpoint.max_length:
            raise UsageError(
                f"bucket {config.buckets[-1]} exceeds the {checkpoint.max_length} positions of the "
                "model",
                f"use --buckets up to {checkpoint.max_length}",
            )
        if Precision.FP8 in config.precision and config.buckets[0] < MIN_FP8_SEQUENCE:
            _LOG.warning(
                "bucket %d: FP8 attention does not fuse below %d tokens",
                config.buckets[0],
                MIN_FP8_SEQUENCE,
            )
        return config.buckets
    longest = min(task.max_length, checkpoint.max_length)
    return (*(bucket for bucket in task.buckets if bucket < longest), longest)


def _export(folder: BuildFolder, inputs: _Inputs) -> float:
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
        folder.tokenizer.mkdir(exist_ok=True)
        for file in sorted(Path(staging).rglob("*")):
            if file.is_file():
                write_bytes(folder.tokenizer / file.name, file.read_bytes())


def _calibrate(config: BuildConfig, inputs: _Inputs, progress: Progress) -> CalibrationTable:
    examples = sample_examples(inputs.train, config.calib_samples, config.seed)
    if len(examples) < config.calib_samples:
        _LOG.warning(
            "calibrating on %d examples, all there are: --calib-samples asks for %d",
            len(examples),
            config.calib_samples,
        )
    features = tokenize(
        inputs.task, inputs.checkpoint.tokenizer, examples, inputs.buckets[-1], progress
    )
    data = CalibrationSet(features, config.seed, fingerprint(features), config.calib_samples)
    return calibrate(inputs.checkpoint, inputs.task, data, progress)


def _write_precisions(
    config: BuildConfig, folder: BuildFolder, table: CalibrationTable | None
) -> None:
    """Derive every other precision from the FP32 graph."""
    for precision in config.precision:
        if precision is Precision.FP32:
            continue
        model = read_onnx(folder.onnx(Precision.FP32.value))
        carried = config.high_precision if precision.quantized else FloatType.FP16
        if precision.quantized:
            assert table is not None  # calibrated whenever a precision is quantized
            insert_qdq(model, config.recipe_for(precision), table, carried)
        cast_floats(model, carried)
        path = folder.onnx(precision.value)
        write_onnx(model, path)
        check_onnx(path)


def _compile(
    config: BuildConfig, folder: BuildFolder, inputs: _Inputs, progress: Progress
) -> tuple[list[EngineFile], dict[Precision, list[ProfileFusion]]]:
    engines: list[EngineFile] = []
    fusion: dict[Precision, list[ProfileFusion]] = {}
    if inputs.flavour is None:
        return engines, fusion
    cross = inputs.flavour is Flavour.TENSORRT_RTX
    profiles = bucket_profiles(inputs.buckets, config.max_batch)
    for precision in config.precision:
        for target in config.target if cross else (_GPU_TARGET,):
            spec = EngineSpec(
                onnx=folder.onnx(precision.value),
                flavour=inputs.flavour,
                profiles=profiles,
                target=target if cross else None,
            )
            with progress.status(f"Building {precision.value} engine for {target}"):
                built = build_engine(spec)
            path = folder.plan(precision.value, target)
            write_bytes(path, built.plan)
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
            layers = parse_layers(built.log)
            if layers:
                expected = expected_fusion(read_onnx(spec.onnx))
                fusion.setdefault(precision, []).extend(
                    fusion_by_profile(layers, expected, profiles, target)
                )
            else:
                _LOG.warning("the builder listed no layers: fusion of %s is unknown", path.name)
    return engines, fusion


_GPU_TARGET = "gpu"


def _evaluate(
    config: BuildConfig, folder: BuildFolder, inputs: _Inputs, progress: Progress
) -> list[Run]:
    profiles = bucket_profiles(inputs.buckets, config.max_batch)
    precisions = dict.fromkeys((Precision.FP32, *config.precision))
    runs = []
    for precision in precisions:
        session = OrtSession(folder.onnx(precision.value), precision, profiles)
        recipe = config.recipe_for(precision).name if precision.quantized else None
        runs.append(evaluate(session, precision, recipe, inputs.dev, progress))
    return runs


def _compare(data: EvaluationSet, runs: Sequence[Run]) -> dict[Precision, Comparison]:
    reference, *others = runs
    return {
        run.precision: compare(data.task, data.examples, reference.predictions, run.predictions)
        for run in others
    }


def _gates(
    config: BuildConfig,
    task: Task,
    comparisons: Mapping[Precision, Comparison],
    fusion: Mapping[Precision, Sequence[ProfileFusion]],
) -> tuple[Gate, ...]:
    gates: tuple[Gate, ...] = ()
    if config.max_drop is not None:
        gates += drop_gates(comparisons, task.metrics[0], config.max_drop)
    if config.require_fusion:
        gates += fusion_gates(fusion, config.precision)
    return gates


def _onnx_sizes(config: BuildConfig, folder: BuildFolder) -> dict[Precision, int]:
    precisions = dict.fromkeys((Precision.FP32, *config.precision))
    return {precision: folder.onnx(precision.value).stat().st_size for precision in precisions}


def _write_manifest(
    config: BuildConfig, folder: BuildFolder, inputs: _Inputs, clock: _Clock, parity: float
) -> None:
    write_json(
        folder.manifest,
        {
            "schema_version": 1,
            "config": config_to_dict(config),
            "model_fingerprint": inputs.checkpoint.fingerprint,
            "data_fingerprint": fingerprint(inputs.dev.features),
            "export_relative_error": parity,
            "environment": describe_environment(),
            "stages": {name: {"seconds": seconds} for name, seconds in clock.seconds.items()},
            "files": file_hashes(folder),
        },
    )
