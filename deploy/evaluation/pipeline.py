"""The evaluation of a build folder: models and data -> runs -> results.json and reports."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from calib_data.blocks import tokenize_blocks
from calib_data.features import Features
from calib_data.progress import Progress, SilentProgress
from calib_data.quiet import quiet_transformers
from calib_data.sampler import fingerprint, fingerprint_examples
from calib_data.sources import load_examples
from calib_data.tasks import Split, Task, get_task
from deploy.artifacts import (
    BuildFolder,
    check_finished,
    check_listed,
    forget_files,
    hold_folder,
    json_text,
    read_json,
    read_results,
    replace_files,
    update_manifest,
)
from deploy.config import check_metrics
from deploy.engine.opening import best_backend
from deploy.engine.profiles import bucket_profiles
from deploy.engine.session import Backend, Precision
from deploy.errors import BuildFolderError, EvaluationError
from deploy.evaluation.config import EvaluateConfig, limits_to_apply, precisions_to_evaluate
from deploy.evaluation.examples import KEPT
from deploy.evaluation.harness import EvaluationSet
from deploy.evaluation.results import (
    evaluation_to_dict,
    examples_to_dict,
    with_evaluation,
    with_gates,
)
from deploy.evaluation.stage import (
    ModelToEvaluate,
    backend_for,
    evaluate_models,
    journal_path,
    journal_paths,
    model_hashes,
)
from deploy.inputs import first_examples
from deploy.paths import inside
from deploy.report.writing import rendered_reports
from deploy.results_structure import check_examples

_LOG = logging.getLogger(__name__)


def evaluate_folder(config: EvaluateConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Evaluate the models of a build folder, and write what is found into its results and reports.

    Args:
        config: What to evaluate.
        progress: Told about everything that takes over a second.

    Returns:
        The content of results.json. Gates that do not hold stand in it; they raise nothing.

    Raises:
        ToolchainError: Whatever the user has to mend; see its remedy.
    """
    progress = progress or SilentProgress()
    folder = BuildFolder(config.out)
    read_results(folder)  # before the lock, which makes the folder
    with hold_folder(folder.path):
        manifest, results = check_finished(folder), read_results(folder)
        build = results["config"]
        task = settled_task(results, config.data_dir)
        limits = limits_to_apply(config, build)
        check_metrics(limits.minima, task)
        precisions = precisions_to_evaluate(config, results)
        given = tuple(each for each in precisions if each is not Precision.FP32)
        backend = config.backend or best_backend(folder, given or (Precision.FP32,))
        models = [_model(folder, manifest, results, each, backend) for each in precisions]
        data, built_on = _data(config, folder, manifest, task, build)
        # What is about to be written is not vouched for until it is whole.
        forget_files(folder, _journal_names(folder, precisions, backend))
        evaluation = evaluate_models(
            folder,
            models,
            backend,
            bucket_profiles(tuple(build["buckets"]), build["max_batch"]),
            data,
            progress,
            lambda features: _check_tokens(features, built_on, manifest["data_fingerprint"]),
        )
        results = with_evaluation(results, evaluation_to_dict(evaluation))
        results = with_gates(results, task, limits)
        known = _known_examples(folder)
        examples = examples_to_dict(known, results, evaluation_to_dict(evaluation, KEPT))
        reports = rendered_reports(folder, results)
        update_manifest(folder, journal_paths(folder, evaluation), "evaluate")
        made = {folder.results: json_text(results), folder.examples: json_text(examples)}
        replace_files(folder, {**made, **reports})
    return results


def settled_task(results: Mapping[str, Any], data_dir: Path | None = None) -> Task:
    """The task as the build settled it; checkpoint and task file may be elsewhere by now.

    Args:
        results: results.json.
        data_dir: Where a user's task has its data files now; None for where they were.

    Raises:
        EvaluationError: The task file has changed since.
    """
    task = _built_task(results, data_dir)
    if task.identity != results["task"]:
        raise EvaluationError(
            f"the task is '{task.identity}' now, and was '{results['task']}' when this was built",
            "restore the task file, or build again",
        )
    labels = results.get("labels")
    if labels is None:
        return task
    return replace(task, labels=tuple(labels["names"]), output_order=tuple(labels["outputs"] or ()))


def _built_task(results: Mapping[str, Any], data_dir: Path | None) -> Task:
    name, text = results["config"]["task"], results.get("task_file")
    path = Path(name)
    if text is None or (data_dir is None and path.is_file()):
        return get_task(name)
    # Imported here, because few tasks are a user's own, and YAML takes a while.
    from calib_data.user_task import parse_task

    return parse_task(path if data_dir is None else data_dir / path.name, text.encode("utf-8"))


def _known_examples(folder: BuildFolder) -> Mapping[str, Any]:
    """examples.json; empty where it is missing or damaged, for it can be made again."""
    try:
        known: Mapping[str, Any] = read_json(folder.examples)
        check_examples(known)
    except (BuildFolderError, ValueError) as error:
        if folder.examples.exists():
            _LOG.warning("'%s' is made anew: %s", folder.examples, error)
        return {}
    return known


def _model(
    folder: BuildFolder,
    manifest: Mapping[str, Any],
    results: Mapping[str, Any],
    precision: Precision,
    backend: Backend,
) -> ModelToEvaluate:
    hashes = model_hashes(manifest, precision, backend_for(folder, precision, backend))
    for name in hashes:
        check_listed(folder, manifest, inside(folder.path, name))
    recipe = results["recipes"].get(precision.value)
    return ModelToEvaluate(precision, None if recipe is None else recipe["name"], hashes)


def _journal_names(
    folder: BuildFolder, precisions: Sequence[Precision], backend: Backend
) -> list[str]:
    used = {precision: backend_for(folder, precision, backend) for precision in precisions}
    return [folder.name(journal_path(folder, *each)) for each in used.items()]


def _data(
    config: EvaluateConfig,
    folder: BuildFolder,
    manifest: Mapping[str, Any],
    task: Task,
    build: Mapping[str, Any],
) -> tuple[EvaluationSet, int]:
    """What to evaluate on, and how many of all examples the build was evaluated on.

    Raises:
        EvaluationError: Those are not the examples that the build was evaluated on.
    """
    data_dir = config.data_dir or (Path(build["data_dir"]) if build["data_dir"] else None)
    # A user's task names its files itself; `settled_task` knows where they lie.
    examples = load_examples(task, Split.DEV, None if task.files is not None else data_dir)
    built_on = min(len(examples), build["limit"] or len(examples))
    # All of them, however few are asked for now.
    expected = manifest["stages"]["evaluate"]["result"].get("data", {}).get("examples")
    if fingerprint_examples(examples[:built_on]) != expected:
        raise _other_data("the development examples, texts or labels, are")
    tokenizer = read_tokenizer(folder)
    # The build's largest bucket is within the model's positions.
    longest = min(task.max_length, build["buckets"][-1])
    chosen = first_examples(examples, config.limit)
    blocks = tokenize_blocks(task, tokenizer, chosen, longest)
    left_out = len(examples) - len(chosen)
    return EvaluationSet(task, chosen, blocks, tokenizer.pad_token_id, left_out), built_on


def read_tokenizer(folder: BuildFolder) -> Any:
    """Load the tokenizer that the build was made with; nothing is fetched.

    Raises:
        BuildFolderError: It is missing or damaged, or a file was put beside it, which transformers
            might read.
    """
    from transformers import AutoTokenizer

    manifest = check_finished(folder)
    for path in sorted(folder.tokenizer.glob("*")):
        if folder.name(path) not in manifest["files"]:
            raise BuildFolderError(
                f"'{path}' is not of this build, and could change how texts are tokenized",
                f"take it out of '{folder.tokenizer}'",
            )
        check_listed(folder, manifest, path)
    try:
        with quiet_transformers():
            return AutoTokenizer.from_pretrained(
                str(folder.tokenizer), local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # transformers raises whatever a damaged file trips over
        raise BuildFolderError(
            f"cannot read '{folder.tokenizer}': {error}", "build it again"
        ) from error


def _check_tokens(features: Features, built_on: int, expected: str) -> None:
    """Refuse other rows than the build's, where all of those are there.

    Raises:
        EvaluationError: They differ.
    """
    if features.example_index[-1] + 1 < built_on:
        return
    rows = int(np.searchsorted(features.example_index, built_on))
    first = replace(
        features,
        input_ids=features.input_ids[:rows],
        token_type_ids=features.token_type_ids[:rows],
        offsets=features.offsets[:rows],
    )
    if fingerprint(first) != expected:
        raise _other_data("the tokens of the development examples are")


def _other_data(what: str) -> EvaluationError:
    return EvaluationError(
        f"{what} not those that this was built with",
        "give --data-dir the folder with the same data, or build again",
    )
