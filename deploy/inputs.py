"""What a build works on: read, and checked against each other, before anything is written."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from calib_data.blocks import tokenize_blocks
from calib_data.demo.model import ensure_demo_model
from calib_data.errors import UsageError
from calib_data.progress import Progress
from calib_data.sources import load_examples
from calib_data.tasks import Examples, Split, Task, get_task
from calib_data.user_task import with_labels
from deploy.config import DEMO, BuildConfig, EngineChoice
from deploy.engine.builder import (
    Flavour,
    HardwareCompatibility,
    installed_flavours,
    supported_targets,
)
from deploy.engine.profiles import MIN_FP8_SEQUENCE
from deploy.engine.session import Precision
from deploy.environment import gpu_names, gpu_targets
from deploy.errors import EngineError
from deploy.evaluation.harness import EvaluationSet
from export.checkpoint import CheckpointInfo, label_names, read_checkpoint
from export.recipe import select_sites
from export.sites import encoder_sites

_LOG = logging.getLogger(__name__)

# Built for where there is no GPU to ask.
_DEFAULT_TARGET = "sm89"

# Where E4M3 tensor cores begin (CUDA C++ Programming Guide, table of tensor core types).
_FP8_TARGET = 89


@dataclass(frozen=True)
class BuildInputs:
    """Everything that a build reads.

    Attributes:
        task: The task, its labels and their order among the model's outputs settled.
        checkpoint: The model, but for its weights.
        max_length: Tokens at which an input is cut or windowed.
        buckets: Sequence buckets, ascending.
        dev: What every precision is judged on.
        train: Training examples to calibrate on; empty where nothing needs it.
        flavour: Which TensorRT builds engines; None builds none.
        targets: Compute capabilities to build for.
    """

    task: Task
    checkpoint: CheckpointInfo
    max_length: int
    buckets: tuple[int, ...]
    dev: EvaluationSet
    train: Examples
    flavour: Flavour | None
    targets: tuple[str, ...]


def load_inputs(config: BuildConfig, progress: Progress) -> BuildInputs:
    """Read model and data, and refuse what cannot be built.

    Raises:
        ToolchainError: Whatever the user has to mend; see its remedy.
    """
    task = get_task(config.task)
    flavour = _flavour(config)
    _check_portability(config, flavour)
    targets = _targets(config, flavour)
    source = str(ensure_demo_model(progress)) if config.model == DEMO else config.model
    if task.labels_from_checkpoint:
        task = with_labels(task, label_names(source, allow_pickle=config.allow_pickle))
    every = load_examples(task, Split.DEV, config.data_dir)
    calibrates = any(precision.calibrated for precision in config.precision)
    train: Examples = load_examples(task, Split.TRAIN, config.data_dir) if calibrates else ()
    dev = first_examples(every, config.limit)
    with progress.status(f"Reading {config.model}"):
        checkpoint = read_checkpoint(source, task, allow_pickle=config.allow_pickle)
    task = replace(task, output_order=checkpoint.label_order or ())
    for precision in config.precision:
        if precision.quantized:
            sites = encoder_sites(checkpoint.architecture, checkpoint.layers)
            select_sites(config.recipe_for(precision), sites)
    buckets = _buckets(config, task, checkpoint)
    max_length = min(task.max_length, checkpoint.max_length, buckets[-1])
    blocks = tokenize_blocks(task, checkpoint.tokenizer, dev, max_length)
    for block in progress.track(blocks, "Tokenizing", len(blocks)):
        block.result()  # what cannot be tokenized is refused now
    return BuildInputs(
        task=task,
        checkpoint=checkpoint,
        max_length=max_length,
        buckets=buckets,
        dev=EvaluationSet(
            task, dev, blocks, checkpoint.tokenizer.pad_token_id, len(every) - len(dev)
        ),
        train=train,
        flavour=flavour,
        targets=targets,
    )


def first_examples(examples: Examples, limit: int | None) -> Examples:
    """As many as --limit asks for, or all; says so where there are fewer."""
    if limit is None:
        return examples
    if limit > len(examples):
        _LOG.warning("--limit %d: there are %d examples, all are taken", limit, len(examples))
    return examples[:limit]


def _flavour(config: BuildConfig) -> Flavour | None:
    installed = installed_flavours()
    if config.engine is EngineChoice.NONE:
        return None
    if config.engine is EngineChoice.AUTO:
        # Datacenter TensorRT cannot even create a builder without a GPU.
        usable = [f for f in installed if f is Flavour.TENSORRT_RTX or gpu_names()]
        if not usable:
            _LOG.warning("no TensorRT is installed that can build here: no engine is built")
            return None
        return usable[0]
    flavour = Flavour(config.engine.value)
    if flavour not in installed:
        raise EngineError(
            f"--engine {flavour.value}: it is not installed",
            f"pip install {flavour.package}, or use --engine none",
        )
    if flavour is Flavour.TENSORRT and not gpu_names():
        raise EngineError(
            "--engine tensorrt: no NVIDIA GPU is visible, and it needs one even to build",
            "use --engine tensorrt-rtx or --engine none here",
        )
    return flavour


def _check_portability(config: BuildConfig, flavour: Flavour | None) -> None:
    chosen = config.hardware_compatibility
    if flavour is Flavour.TENSORRT_RTX and chosen is not HardwareCompatibility.NONE:
        raise UsageError(
            f"--hardware-compatibility {chosen.value}: {flavour.value} has no such choice",
            "leave it out: its plans run on every GPU of their --target",
        )
    if flavour is Flavour.TENSORRT_RTX and config.version_compatible:
        raise UsageError(
            f"--version-compatible: {flavour.value} has no such plans",
            "leave it out, and build again for another version",
        )
    if chosen is HardwareCompatibility.AMPERE_PLUS and Precision.FP8 in config.precision:
        raise UsageError(
            "--hardware-compatibility ampere-plus: Ampere has no FP8 tensor cores",
            "use same-compute-capability, or --precision int8",
        )


def _targets(config: BuildConfig, flavour: Flavour | None) -> tuple[str, ...]:
    if flavour is None:
        return ()
    if flavour is Flavour.TENSORRT:
        targets = _target_here(config)
    else:
        targets = _known_targets(config, flavour)
    for target in targets:
        if Precision.FP8 in config.precision and int(target.removeprefix("sm")) < _FP8_TARGET:
            elsewhere = "a GPU of sm89" if flavour is Flavour.TENSORRT else "--target sm89"
            raise UsageError(
                f"{target} has no FP8 tensor cores",
                f"use {elsewhere} or newer, or --precision int8",
            )
    return targets


def _target_here(config: BuildConfig) -> tuple[str, ...]:
    """Of datacenter TensorRT, which builds for the GPU it runs on, whatever it is told."""
    here = gpu_targets()[:1]
    if config.target not in (None, here):
        raise UsageError(
            f"--target {','.join(config.target or ())}: {Flavour.TENSORRT.value} builds for the "
            f"GPU that is here, {', '.join(here)}",
            f"leave it out, or use --engine {Flavour.TENSORRT_RTX.value}, which builds for others",
        )
    return here


def _known_targets(config: BuildConfig, flavour: Flavour) -> tuple[str, ...]:
    known = supported_targets(flavour)
    here = tuple(target for target in gpu_targets() if target in known)
    targets = config.target or here or (_DEFAULT_TARGET,)
    for target in targets:
        if target not in known:
            raise UsageError(
                f"{flavour.value} cannot build for '{target}'",
                f"use --target with any of: {', '.join(known)}",
            )
    return targets


def _buckets(config: BuildConfig, task: Task, checkpoint: CheckpointInfo) -> tuple[int, ...]:
    """The sequence buckets: those asked for, or the task's as far as the model has positions."""
    longest = min(task.max_length, checkpoint.max_length)
    if config.buckets is None:
        return (*(bucket for bucket in task.buckets if bucket < longest), longest)
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
    if config.buckets[-1] < longest:
        _LOG.warning(
            "inputs are cut at %d tokens, the largest bucket; %s is defined with %d",
            config.buckets[-1],
            task.name,
            longest,
        )
    return config.buckets
