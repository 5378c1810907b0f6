"""The numbers of a trial under the names that MLflow gets them by: after each stage, of the whole, and of its costs.

Metric names are part of what users search for and sort by: AP, MAP, BWT, FWT, MIF as in the table ("AP_lenient" for its
"AP lenient"), `accuracy.TASK`, `forgetting.TASK`, `trained_parameters`, `stored_parameters`, and `system/...`, which
the interface shows in a tab of their own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from orchestrator.planning.lowering import TrialPlan
from orchestrator.results.reading import ResultReader, TrialResult
from orchestrator.results.table import forgetting_after, metrics_after, unlearned_metrics
from orchestrator.storage.record import Record

GIB = 2**30
TRAINED, STORED = "trained_parameters", "stored_parameters"


def metric_key(name: str) -> str:
    """A name that MLflow takes as part of a metric's."""
    return re.sub(r"[^\w\-. ]", "_", name)


def accuracy_key(task: str) -> str:
    """The metric of the score on a task."""
    return f"accuracy.{metric_key(task)}"


def metrics_of_row(result: TrialResult, row: int) -> dict[str, float]:
    """The table's metrics after stage `row` (from 0), under names that MLflow takes, and of each task the accuracy and,
    in points, what was forgotten.

    "AP_lenient" is the table's "AP lenient"; MAP after k stages is the mean of AP over them (LiLoRA, Eq. 9).
    """
    main = result.matrices["main"]
    found = {name.replace(" ", "_"): value for name, value in metrics_after(result, row).items()}
    found |= {accuracy_key(task): value for task, value in zip(main.tasks, main.rows[row], strict=True)}
    found |= {f"forgetting.{metric_key(task)}": value for task, value in forgetting_after(result, row).items()}
    if row == len(main.rows) - 1:
        found |= unlearned_metrics(result)
        found |= {accuracy_key(task): value for task, value in (result.unseen_scores() or {}).items()}
        found |= {TRAINED: result.trainable, STORED: result.stored_parameters}
    return {name: value for name, value in found.items() if value is not None}


def costs_of_row(plan: TrialPlan, row: int, reader: ResultReader) -> dict[str, float]:
    """What a stage took, where it was measured: seconds, the most memory, steps and tokens a second of training; and
    seconds and generated tokens a second of the answers after it.
    """
    found: dict[str, float] = {}
    record = reader.record(plan.stages[row].digest) if plan.stages else None
    if record is not None:
        found["system/train_seconds"] = record.seconds
        for place, size in record.provenance.get("peak_memory", {}).items():
            found[f"system/train_peak_{place}_memory_gib"] = size / GIB
        for counted in ("steps", "tokens"):
            if record.seconds > 0 and record.summary.get(counted):
                found[f"system/train_{counted}_per_second"] = record.summary[counted] / record.seconds
    answers = [reader.record(predict.digest) for (place, _), (predict, _) in plan.cells.items() if place == row]
    return found | _answer_costs([answer for answer in answers if answer is not None])


def _answer_costs(answers: Sequence[Record]) -> dict[str, float]:
    seconds = sum(answer.seconds for answer in answers)
    if not seconds:
        return {}
    found = {"system/answer_seconds": seconds}
    if all("tokens" in answer.summary for answer in answers):
        found["system/answer_tokens_per_second"] = sum(answer.summary["tokens"] for answer in answers) / seconds
    return found
