"""Compile: ONNX -> a TensorRT plan for one target, what it is, and its layers."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from calib_data.progress import Progress
from deploy.artifacts import BuildFolder, write_text
from deploy.config import BuildConfig
from deploy.engine.builder import BuiltEngine, EngineSpec, Flavour, build_engine, flavour_version
from deploy.engine.fusion import ProfileFusion, fusion_by_profile
from deploy.engine.layer_report import LayerReport, report_build, report_to_json
from deploy.engine.plan import PlanInfo, write_plan
from deploy.engine.profiles import bucket_profiles
from deploy.engine.session import Precision
from deploy.environment import Gpu, find_gpus
from deploy.errors import EngineError
from deploy.inputs import BuildInputs
from deploy.results import EngineFile
from deploy.stages.keys import hashes_of, stage_key, versions_of
from deploy.stages.record import Files
from deploy.stages.run import Made, Stage
from export.onnx_file import read_onnx

_LOG = logging.getLogger(__name__)

COMPILE = "compile"


def compile_stage(
    config: BuildConfig,
    folder: BuildFolder,
    inputs: BuildInputs,
    flavour: Flavour,
    precision: Precision,
    target: str,
    files: Files,
    progress: Progress,
) -> Stage:
    """The plan of one precision for one target.

    Its result has `engine`, as `EngineFile`, and `fusion`, a list of `ProfileFusion` as plain data;
    null where it is unknown.
    """
    portable = flavour is Flavour.TENSORRT_RTX
    # Datacenter TensorRT builds for the GPU it runs on, and cannot be told another.
    spec = EngineSpec(
        onnx=folder.onnx(precision.value),
        flavour=flavour,
        profiles=bucket_profiles(inputs.buckets, config.max_batch),
        target=target if portable else None,
        options=config.builder_options,
    )
    gpu = None if portable else find_gpus()[0]
    recipe = config.recipe_for(precision).name if precision.quantized else None

    def work() -> Made:
        built = build_engine(spec, progress)
        info = PlanInfo(
            sha256=hashlib.sha256(built.plan).hexdigest(),
            bytes=len(built.plan),
            precision=precision,
            recipe=recipe,
            flavour=spec.flavour,
            tensorrt_version=built.version,
            target=target,
            gpu=gpu.name if gpu else None,
            driver=gpu.driver if gpu else None,
            profiles=spec.profiles,
            pad_token_id=inputs.dev.pad_token_id,
            hardware_compatibility=spec.options.hardware_compatibility,
            version_compatible=spec.options.version_compatible,
        )
        plan = write_plan(folder, info, built.plan)
        report = _report(spec, built, precision, target)
        fusion = None if report is None else _fusion(spec, report)
        engine = EngineFile(
            precision=precision,
            flavour=flavour.value,
            version=built.version,
            target=target,
            file=folder.name(plan),
            bytes=len(built.plan),
            seconds=round(built.seconds, 3),
        )
        written = [plan, folder.plan_info(precision.value, target)]
        if report is not None:
            written.append(folder.layers(precision.value, target))
            write_text(written[-1], report_to_json(report))
        return Made(
            written,
            {
                "engine": asdict(engine),
                "fusion": None if fusion is None else [asdict(each) for each in fusion],
            },
        )

    name = stage_name(precision, target)
    return Stage(
        name=name,
        key=stage_key(
            name,
            inputs=hashes_of(files, [folder.name(spec.onnx)]),
            **_facts(spec, gpu),
            recipe=recipe,
            pad_token_id=inputs.dev.pad_token_id,
            versions={**versions_of(), flavour.value: flavour_version(flavour)},
        ),
        work=work,
    )


def stage_name(precision: Precision, target: str) -> str:
    """The name of a compilation."""
    return f"{COMPILE}.{precision.value}.{target}"


def _facts(spec: EngineSpec, gpu: Gpu | None) -> dict[str, Any]:
    return {
        "flavour": spec.flavour.value,
        "profiles": [asdict(profile) for profile in spec.profiles],
        "options": asdict(spec.options),
        "gpu": None if gpu is None else asdict(gpu),
    }


def _report(
    spec: EngineSpec, built: BuiltEngine, precision: Precision, target: str
) -> LayerReport | None:
    """The plan's layers; None where they cannot be read, since the plan is good."""
    try:
        return report_build(spec, built, target, precision.value, read_onnx(spec.onnx))
    except EngineError as error:
        _warn(spec, error)
        return None


def _fusion(spec: EngineSpec, report: LayerReport) -> Sequence[ProfileFusion] | None:
    """The plan's layers held against the graph; None where they cannot be."""
    if report.expected is None:
        return None
    try:
        return fusion_by_profile(report.layers, report.expected, report.profiles, report.target)
    except EngineError as error:
        _warn(spec, error)
        return None


def _warn(spec: EngineSpec, error: EngineError) -> None:
    _LOG.warning("fusion of %s is unknown: %s", spec.onnx.name, error.message)
