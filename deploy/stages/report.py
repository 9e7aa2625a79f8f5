"""Report: what the stages found out -> results.json, report.html and report.md."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import cache
from typing import Any

from deploy.artifacts import BuildFolder, canonical, read_json, write_json
from deploy.carried import carry_over
from deploy.config import BuildConfig, config_to_dict
from deploy.engine.fusion import ProfileFusion, profile_fusion_from_dict
from deploy.engine.session import Precision
from deploy.environment import describe_environment
from deploy.evaluation.gates import limits_to_dict
from deploy.inputs import BuildInputs
from deploy.report.writing import write_reports
from deploy.results import BuildOutcome, LabelOrder, results_to_dict
from deploy.stages.calibrate import CALIBRATE
from deploy.stages.compile import COMPILE
from deploy.stages.evaluate import EVALUATE, task_facts
from deploy.stages.keys import hashes_of, stage_key, versions_of
from deploy.stages.record import Files, StageRecord, is_intact
from deploy.stages.run import Made, Stage

_LOG = logging.getLogger(__name__)

REPORT = "report"

Records = Mapping[str, StageRecord]


def report_stage(
    config: BuildConfig, folder: BuildFolder, inputs: BuildInputs, records: Records, files: Files
) -> Stage:
    """Results and reports, made of the records of all other stages.

    Its result has `models`, the hash of each file of each precision, and `data`, of the evaluation:
    what the next results are compared with, to know which measurements still hold.
    """
    # A user of the folder has to know which buckets the task's default came to.
    config = replace(config, buckets=inputs.buckets)
    found = records[EVALUATE].result
    environment = describe_environment()
    labels = label_order(inputs, suspected=found["suspected_permutation"])
    precisions = tuple(dict.fromkeys((Precision.FP32, *config.precision)))
    subject = {
        "models": {each.value: _model(files, each) for each in precisions},
        "data": {
            **found["data"],
            "model": inputs.checkpoint.fingerprint,
            "task": task_facts(inputs.task),
        },
    }

    limits = limits_to_dict(config.accuracy_limits)

    @cache
    def carried() -> dict[str, Any]:
        return _carried(folder, records.get(REPORT), subject)

    def work() -> Made:
        results = results_to_dict(
            BuildOutcome(
                config=config,
                task=inputs.task,
                labels=labels,
                model_fingerprint=inputs.checkpoint.fingerprint,
                data_fingerprint=found["data"]["tokens"],
                onnx_bytes={
                    each: files[folder.name(folder.onnx(each.value))]["bytes"]
                    for each in precisions
                },
                calibration=records[CALIBRATE].result if CALIBRATE in records else None,
                evaluation=found["evaluation"],
                engines=[record.result["engine"] for record in _compiled(records)],
                fusion=_fusion(records),
                environment=environment,
                carried=carried(),
            )
        )
        write_json(folder.results, results)
        return Made([folder.results, *write_reports(folder, results)], subject)

    others = {name: record.result for name, record in records.items() if name != REPORT}
    return Stage(
        name=REPORT,
        key=stage_key(
            REPORT,
            config=config_to_dict(config),
            task=inputs.task.identity,
            labels=None if labels is None else asdict(labels),
            subject=subject,
            found=others,
            environment=environment,
            versions=versions_of(),
        ),
        work=work,
        # `deploy evaluate` judges by limits of its own.
        holds=lambda: read_json(folder.results).get("limits") == limits,
        prepare=carried,
    )


def label_order(inputs: BuildInputs, *, suspected: bool) -> LabelOrder | None:
    """How the model's outputs were tied to the labels; warns where that seems to be wrong."""
    task = inputs.task
    if not task.labels:
        return None
    if suspected:
        _LOG.warning(
            "labels may be permuted: fp32 is right far less often than by chance, and the model "
            "does not name its labels; if so, write id2label into its config.json (labels of %s: "
            "%s)",
            task.name,
            ", ".join(task.labels),
        )
    return LabelOrder(task.labels, inputs.checkpoint.label_order, suspected)


def _carried(
    folder: BuildFolder, known: StageRecord | None, subject: Mapping[str, Any]
) -> dict[str, Any]:
    """What of the folder's results still holds; nothing where they are not as they were written."""
    if known is None or not is_intact(folder, known):
        return {}
    before, now = known.result["models"], subject["models"]
    unchanged = {precision for precision in now if now[precision] == before.get(precision)}
    data, data_now = known.result["data"], subject["data"]
    return carry_over(
        read_json(folder.results),
        unchanged,
        same_model=data["model"] == data_now["model"],
        same_data=canonical(data) == canonical(data_now),
    )


def _model(files: Files, precision: Precision) -> dict[str, str]:
    name = precision.value
    return hashes_of(files, (f"onnx/model.{name}.onnx", f"engines/model.{name}."))


def _compiled(records: Records) -> list[StageRecord]:
    return [record for name, record in records.items() if name.startswith(f"{COMPILE}.")]


def _fusion(records: Records) -> dict[Precision, list[ProfileFusion]]:
    """What was fused, of each precision of which every target's layers are known.

    The worst profile stands for a precision: nobody knows which that is while one is unknown.
    """
    fusion: dict[Precision, list[ProfileFusion]] = {}
    unknown = set()
    for record in _compiled(records):
        precision = Precision(record.result["engine"]["precision"])
        found = [profile_fusion_from_dict(each) for each in record.result["fusion"] or ()]
        if not found:
            unknown.add(precision)
        fusion.setdefault(precision, []).extend(found)
    return {each: found for each, found in fusion.items() if each not in unknown}
