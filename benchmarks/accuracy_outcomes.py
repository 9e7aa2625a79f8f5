"""What a session makes of a development set, and how far two of them lie apart."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from accuracy_cells import Bench, Cell, Job

from calib_data.progress import Progress
from deploy.engine.session import Session
from deploy.evaluation.compare import compare
from deploy.evaluation.deviation import flat_outputs
from deploy.evaluation.harness import EvaluationSet, RowOutputs, Run, judge, run_rows
from export.verify import relative_error


@dataclass(frozen=True)
class Outcome:
    """What a session gave, and what it comes to."""

    run: Run
    outputs: RowOutputs


def execute(session: Session, job: Job, bench: Bench, progress: Progress) -> Outcome:
    """Run the development set, and judge what comes out."""
    description = f"Evaluating {job.name} on {session.info.backend.value}"
    outputs = run_rows(session, bench.data, progress, description)
    recipe = job.recipe.name if job.recipe else None
    return Outcome(judge(session.info, job.precision, recipe, bench.data, outputs), outputs)


def distance(data: EvaluationSet, found: Outcome, reference: Outcome, fp32: Outcome) -> Cell:
    """How far an outcome lies from another of the same graph.

    Returns:
        The comparison of their answers, `logits_error`, which is the norm of the logits' difference
        over that of the reference's, and `quantization_effect`, the same for reference and FP32.
    """
    here, there, exact = (flat_outputs(each.outputs.values) for each in (found, reference, fp32))
    comparison = compare(data.task, data.examples, reference.run.predictions, found.run.predictions)
    return {
        **asdict(comparison),
        "logits_error": relative_error(here, there),
        "quantization_effect": relative_error(there, exact),
    }
