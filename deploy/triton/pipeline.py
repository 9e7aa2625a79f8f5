"""A build folder -> a model repository, and a summary of it."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from calib_data.progress import Progress, SilentProgress
from deploy.artifacts import BuildFolder, check_finished, hold_folder, read_results
from deploy.engine.session import Precision
from deploy.evaluation.pipeline import settled_task
from deploy.report.verdict import verdict
from deploy.triton.batching import Batching, choose_batching
from deploy.triton.config import ServingBackend, TritonConfig, parse_name
from deploy.triton.encoder import Encoder, TensorSpec, read_encoders
from deploy.triton.model_config import (
    graph_batches,
    mask_file,
    render_encoder,
    render_text,
    warmups,
)
from deploy.triton.repository import ModelFiles, write_models
from deploy.triton.text import TextModel, make_text_model

_LOG = logging.getLogger(__name__)

_NUMPY: dict[str, np.dtype[Any]] = {"TYPE_INT64": np.dtype("<i8"), "TYPE_INT32": np.dtype("<i4")}


def write_repository(config: TritonConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Write the models of a build into a Triton repository.

    Args:
        config: What to write, and where.
        progress: Told about everything that takes over a second.

    Returns:
        What was written, how it is batched and why, and the command that serves it; plain data.

    Raises:
        ToolchainError: Whatever the user has to mend; see its remedy.
    """
    progress = progress or SilentProgress()
    folder = BuildFolder(config.out)
    read_results(folder)  # before the lock, which makes the folder
    with hold_folder(folder.path), progress.status("Writing the model repository"):
        manifest, results = check_finished(folder), read_results(folder)
        task = settled_task(results)
        name = config.name or parse_name(task.name)
        encoders = read_encoders(folder, manifest, results, config.backend, config.precision)
        default = _default(config, results, encoders)
        names = {each.precision: f"{name}-{each.precision.value}" for each in encoders}
        batching = {each.precision: _batching(config, results, each) for each in encoders}
        text = None
        if config.text:
            text = make_text_model(folder, manifest, task, names[default.precision], default)
        models: dict[str, ModelFiles] = {
            names[each.precision]: _encoder_files(
                names[each.precision], each, _shared(batching[each.precision], text)
            )
            for each in encoders
        }
        if text is not None:
            # The last, for it calls another.
            models[name] = _text_files(name, text, default, batching[default.precision])
        write_models(config.repository, name, models)
    return {
        "repository": str(config.repository),
        "backend": config.backend.value,
        "default": names[default.precision],
        "models": [
            _summary(names[each.precision], each, _shared(batching[each.precision], text))
            for each in encoders
        ],
        "text": None if text is None else _text_summary(name, text, batching[default.precision]),
        "serve": serve_command(config, encoders, text),
    }


def serve_command(
    config: TritonConfig, encoders: Sequence[Encoder], text: TextModel | None
) -> tuple[str, ...]:
    """The commands that serve a repository with Docker.

    The variable TRITON_RELEASE stands for a release of Triton, which for plans is one that has the
    TensorRT they were built by.
    """
    image = "nvcr.io/nvidia/tritonserver:$TRITON_RELEASE-py3"
    commands = []
    if text is not None:
        image = "bert-triton:$TRITON_RELEASE"
        commands.append(
            f"docker build --build-arg TRITON_RELEASE=$TRITON_RELEASE --tag {image} docker/triton"
        )
    gpus = "--gpus all " if config.backend is ServingBackend.TENSORRT else ""
    volume = shlex.quote(f"{config.repository.absolute()}:/models:ro")
    server = "tritonserver --model-repository=/models"
    if any(each.plan is not None and each.plan.version_compatible for each in encoders):
        server += " --backend-config=tensorrt,version-compatible=true"
    commands.append(
        f"docker run --rm {gpus}--shm-size=1g -p 8000:8000 -p 8001:8001 -p 8002:8002 "
        f"-v {volume} {image} {server}"
    )
    return tuple(commands)


def _default(
    config: TritonConfig, results: Mapping[str, Any], encoders: Sequence[Encoder]
) -> Encoder:
    """What texts are answered by, and what a client should ask for that has no reason not to."""
    by_precision = {each.precision: each for each in encoders}
    if config.precision is not None:
        return encoders[0]
    if config.backend is ServingBackend.ONNXRUNTIME:
        return by_precision[Precision.FP32]  # nothing else is faster there
    chosen = verdict(results).precision
    if chosen is not None and Precision(chosen) in by_precision:
        return by_precision[Precision(chosen)]
    widest = encoders[-1]
    _LOG.warning(
        "%s, so %s is the default: it is the widest precision that has a plan",
        "no precision may be shipped" if chosen is None else f"{chosen} has no plan",
        widest.precision.value,
    )
    return widest


def _batching(config: TritonConfig, results: Mapping[str, Any], encoder: Encoder) -> Batching:
    return choose_batching(
        results["latency"],
        encoder.precision.value,
        encoder.backend.value,
        encoder.max_batch,
        config.max_queue_delay,
    )


def _shared(batching: Batching, text: TextModel | None) -> Batching:
    """An encoder's part of the waiting: texts have waited for one another already."""
    return batching if text is None else replace(batching, max_queue_delay_us=0)


def _encoder_files(name: str, encoder: Encoder, batching: Batching) -> ModelFiles:
    mask = next(each for each in encoder.inputs if each.name == "attention_mask")
    return {
        **{f"1/{file}": path for file, path in encoder.files.items()},
        **{
            f"warmup/{mask_file(bucket)}": np.ones(bucket, _NUMPY[mask.data_type]).tobytes()
            for bucket in encoder.buckets
        },
        "config.pbtxt": render_encoder(name, encoder, batching).encode(),
    }


def _text_files(name: str, text: TextModel, encoder: Encoder, batching: Batching) -> ModelFiles:
    config = render_text(
        name,
        text.spec.encoder,
        text.inputs,
        text.outputs,
        encoder.max_batch,
        batching,
        encoder.facts,
    )
    return {
        **{f"1/{file}": content for file, content in text.files.items()},
        "config.pbtxt": config.encode(),
    }


def _summary(name: str, encoder: Encoder, batching: Batching) -> dict[str, Any]:
    model, *_ = encoder.files.values()
    return {
        "name": name,
        **encoder.facts,
        "bytes": model.stat().st_size,
        "inputs": _tensors(encoder.inputs),
        "outputs": _tensors(encoder.outputs),
        "max_batch": encoder.max_batch,
        "profiles": [asdict(profile) for profile in encoder.profiles],
        "preferred_batch_size": list(batching.preferred),
        "max_queue_delay_us": batching.max_queue_delay_us,
        "batching": batching.source,
        "cuda_graphs": list(graph_batches(encoder, batching)) if encoder.plan else [],
        "warmups": len(warmups(encoder, batching)),
    }


def _text_summary(name: str, text: TextModel, batching: Batching) -> dict[str, Any]:
    return {
        "name": name,
        "encoder": text.spec.encoder,
        "inputs": _tensors(text.inputs),
        "outputs": _tensors(text.outputs),
        "max_queue_delay_us": batching.max_queue_delay_us,
    }


def _tensors(specs: Sequence[TensorSpec]) -> list[dict[str, Any]]:
    return [{**asdict(each), "dims": list(each.dims)} for each in specs]
