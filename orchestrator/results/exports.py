"""Results for other programs: the table as CSV text, a trial as plain data for JSON, and the names of its scorers."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from orchestrator.planning.lowering import TrialPlan
from orchestrator.results.answers.form import form_json
from orchestrator.results.reading import TrialResult
from orchestrator.results.table import TableRow, metrics_after, unlearned_metrics
from orchestrator.study.metrics import ALIASES, METRICS, UNLEARNED, Stat
from orchestrator.study.naming import method_name


def table_csv(rows: Sequence[TableRow]) -> str:
    """The table as CSV text: for each number its mean, and its standard deviation in a column named "... sd"."""
    tasks = list(dict.fromkeys(task for row in rows for task in row.accuracy))
    metrics = [*METRICS, *(name for name in UNLEARNED if any(name in row.metrics for row in rows))]
    numbers = [*tasks, *metrics]
    header = ["method", *(name for number in numbers for name in (number, f"{number} sd"))]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*header, "seeds", "trainable", "stored", "kept to learn", "task id at test", "note", "scorers"])
    for row in rows:
        stats = [row.accuracy.get(task) for task in tasks] + [row.metrics.get(name) for name in metrics]
        cells = [cell for stat in stats for cell in _csv_cells(stat)]
        task_id = "yes" if row.needs_task_id else "no"
        counts = ["" if count is None else count for count in (row.trainable, row.stored, row.kept_to_learn)]
        scorers = describe_scorers(result.plan for result in row.results)
        writer.writerow([row.name, *cells, row.count, *counts, task_id, row.note, scorers])
    return text.getvalue()


def _csv_cells(stat: Stat | None) -> tuple[str, str]:
    if stat is None:
        return "", ""
    return f"{stat.mean:.4f}", "" if stat.deviation is None else f"{stat.deviation:.4f}"


def trial_json(result: TrialResult) -> dict[str, Any]:
    """One trial for machines; `matrix` has a row for each name in `after`, and a column for each task in `order`."""
    plan, matrix, numbers = result.plan, result.matrices["main"], metrics_after(result)
    return {
        "name": plan.name,
        "method": method_name(plan.trial.method),
        "seed": plan.trial.seed,
        "order": list(plan.tasks),
        "after": list(matrix.after),
        "matrix": [list(row) for row in matrix.rows],
        "scorers": scorer_names(plan),
        **form_json(result),
        **{name: numbers[name] for name in ("AP", "MAP", "BWT", "MIF", "BWT_N", "FWT")},
        **{name: numbers[ours] for name, ours in ALIASES.items()},
        **unlearned_metrics(result),
        "trainable": result.trainable,
        "stored": result.stored_parameters,
        "kept_to_learn": result.kept_to_learn,
        "missing": result.num_missing,
    }


def scorer_names(plan: TrialPlan) -> dict[str, str]:
    """What judges each task of the trial: its scorer, and which version of one that has two ("textvqa (paper)")."""
    configs = {step.config.task: step.config for _, step in plan.cells.values()}
    return {
        task: f"{configs[task].scorer} ({configs[task].scores})" if configs[task].scores else configs[task].scorer
        for task in plan.tasks
        if task in configs
    }


def scorers_by_task(plans: Iterable[TrialPlan]) -> dict[str, list[str]]:
    """What judges each task of some trials; more than one where they use different versions."""
    found: dict[str, list[str]] = {}
    for plan in plans:
        for task, name in scorer_names(plan).items():
            if name not in found.setdefault(task, []):
                found[task].append(name)
    return found


def describe_scorers(plans: Iterable[TrialPlan]) -> str:
    """The scorers of some trials in a line: "ScienceQA scienceqa (paper), TextVQA textvqa (paper)"."""
    return ", ".join(f"{task} {' and '.join(names)}" for task, names in scorers_by_task(plans).items())
