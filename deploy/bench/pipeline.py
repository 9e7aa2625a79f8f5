"""The benchmark of a build folder: sessions and baselines -> sweep -> results.json and report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from calib_data.demo.model import ensure_demo_model
from calib_data.progress import Progress, SilentProgress
from deploy.artifacts import (
    BuildFolder,
    check_finished,
    hold_folder,
    json_text,
    read_results,
    replace_files,
)
from deploy.bench.baselines import BaselineModel, baseline_probes
from deploy.bench.config import (
    BenchConfig,
    BenchPlan,
    bench_config_to_dict,
    plan_bench,
    settled,
)
from deploy.bench.crossover import crossover
from deploy.bench.environment import machine_state
from deploy.bench.probes import on_gpu, session_probes
from deploy.bench.results import with_sweep
from deploy.bench.sweep import Probe, sweep
from deploy.bench.tokens import token_sets, vocabulary_size
from deploy.config import DEMO
from deploy.engine.opening import best_backend, open_session
from deploy.engine.session import Backend
from deploy.evaluation.pipeline import settled_task
from deploy.report.writing import rendered_reports

# Of token ids and of the order within rounds: two benchmarks feed the same.
_SEED = 0


def bench(config: BenchConfig, progress: Progress | None = None) -> tuple[Backend, dict[str, Any]]:
    """Measure a build folder, and write what was found into its results and report.

    Args:
        config: What to measure.
        progress: Told about everything that takes over a second.

    Returns:
        The backend that was measured, and the content of results.json.

    Raises:
        ToolchainError: Whatever the user has to mend; see its remedy.
    """
    progress = progress or SilentProgress()
    folder = BuildFolder(config.out)
    plan = plan_bench(config, read_results(folder))
    backend = config.backend or best_backend(folder, plan.precisions)
    with hold_folder(folder.path):
        check_finished(folder)
        results = read_results(folder)
        vocabulary = vocabulary_size(folder.tokenizer)
        start = machine_state()
        measurements = sweep(
            probes=(
                *_session_probes(config, folder, plan, backend, progress),
                *_baseline_probes(config, folder, plan, results, progress),
            ),
            shapes=plan.shapes,
            make_inputs=lambda shape: token_sets(shape, vocabulary, _SEED),
            effort=config.effort,
            seed=_SEED,
            progress=progress,
        )
        environment = {
            "config": bench_config_to_dict(settled(config, plan, backend)),
            "start": start,
            "end": machine_state(),
        }
        results = with_sweep(
            results, backend.value, measurements, crossover(measurements), environment
        )
        reports = rendered_reports(folder, results)
        replace_files(folder, {folder.results: json_text(results), **reports})
    return backend, results


def _session_probes(
    config: BenchConfig, folder: BuildFolder, plan: BenchPlan, backend: Backend, progress: Progress
) -> list[Probe]:
    probes: list[Probe] = []
    for precision in plan.precisions:
        with progress.status(f"Opening {precision.value} on {backend.value}"):
            session = open_session(folder, precision, backend, plan.profiles)
            probes += session_probes(session, precision, cuda_graph=False)
            if config.cuda_graph and on_gpu(session):
                # A session keeps its graphs, and both ways are measured in turn: it takes two.
                session = open_session(folder, precision, backend, plan.profiles)
                batches = tuple({shape.batch for shape in plan.shapes})
                probes += session_probes(session, precision, cuda_graph=True, batches=batches)
    return probes


def _baseline_probes(
    config: BenchConfig,
    folder: BuildFolder,
    plan: BenchPlan,
    results: Mapping[str, Any],
    progress: Progress,
) -> list[Probe]:
    if not config.baseline:
        return []
    source = config.model or results["model"]
    model = BaselineModel(
        folder=folder,
        checkpoint=str(ensure_demo_model(progress)) if source == DEMO else source,
        head=settled_task(results).head,
        shapes=len(plan.shapes),
    )
    probes: list[Probe] = []
    for baseline in config.baseline:
        with progress.status(f"Loading baseline {baseline.value}"):
            probes += baseline_probes(baseline, model)
    return probes
