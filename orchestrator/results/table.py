"""The rows of a result table, averaged over seeds, and the metrics of a trial after each of its stages.

Metrics are pure functions of matrices (`lilora.matrix`), computed in one place, `metrics_after`. A cell that is not
finished is None, which every metric that needs it passes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lilora.matrix import Matrix, forgetting_by_task, forward_transfer_before, unseen_change, zero_shot_change
from orchestrator.planning.collector import collector_paused
from orchestrator.results.reading import TrialResult
from orchestrator.study.metrics import ALIASES, METRICS, UNLEARNED, Stat
from orchestrator.study.paper import PAPER_METRICS, Paper


@dataclass(frozen=True)
class TableRow:
    """One row of the result table: trials that are equal but for the seed.

    Attributes:
        name: the trials' common name.
        results: the trials that are averaged: the finished ones, or all while none is. A method without a seed of its
            own (zero-shot) counts once.
        accuracy: the main score on each task after the last stage, in percent.
        metrics: those of `METRICS`, by name, and of `UNLEARNED` where they are asked for; `metric` knows their other
            names too.
        by_seed: of each metric, and of each task after the last stage, its value for each seed; None where it was not
            measured.
        trainable, stored: parameters (see `TrialResult`).
        kept_to_learn: bytes (see `TrialResult`); the most of any seed, since sampled rows differ in size.
        needs_task_id: whether the trials are told at test which task an item is from.
        note: what is missing; empty if nothing is.
    """

    name: str
    results: tuple[TrialResult, ...]
    accuracy: Mapping[str, Stat | None] = field(default_factory=dict)
    metrics: Mapping[str, Stat | None] = field(default_factory=dict)
    by_seed: Mapping[str, Mapping[int, float | None]] = field(default_factory=dict)
    trainable: int | None = None
    stored: int | None = None
    kept_to_learn: int | None = None
    needs_task_id: bool = False
    note: str = ""

    @property
    def schedule(self) -> str:
        """How the trials go through their tasks: "sequential", "independent", "joint" or "none"."""
        return self.results[0].plan.trial.method.schedule

    @property
    def is_at_once(self) -> bool:
        """Whether all tasks are met at once, so that their order says nothing (zero-shot, joint)."""
        plan = self.results[0].plan
        return plan.after[0] not in plan.tasks

    def metric(self, name: str) -> Stat | None:
        """A metric by its name in one of the papers ("ACC" is "AP"); None where it was not measured."""
        return self.metrics.get(ALIASES.get(name, name))

    def seeds(self, name: str) -> dict[int, float]:
        """A metric's values, or a task's, by seed; {} where it was not measured for each."""
        known = self.by_seed.get(ALIASES.get(name, name), {})
        found = {seed: value for seed, value in known.items() if value is not None}
        return found if len(found) == len(known) else {}

    @property
    def count(self) -> int:
        """Number of trials averaged."""
        return len(self.results)


def metrics_after(result: TrialResult, row: int | None = None) -> dict[str, float | None]:
    """The table's metrics (names as in `METRICS`) after a row, from 0, or after the last: of the tasks met by then.

    A trial is judged there as one whose stream ends there: the table, MLflow's series, the report's lines and what a
    sweep goes by are these numbers. None where a cell is missing, or where there is no such metric (BWT of one task).
    """
    row = len(result.plan.after) - 1 if row is None else row
    count = result.plan.num_learned(row)
    alone = result.alone_scores(result.plan.tasks[:count])
    # Several metrics are read off one matrix.
    known = {key: _beginning(result.matrices[key], row, count) for key in {key for key, _ in METRICS.values()}}
    return {name: function(known[key], alone) for name, (key, function) in METRICS.items()}


def forgetting_after(result: TrialResult, row: int) -> dict[str, float | None]:
    """Of each task learned before a row, from 0, what was forgotten by then (`lilora.matrix.forgetting_by_task`)."""
    return forgetting_by_task(_beginning(result.matrices["main"], row, result.plan.num_learned(row)))


def unlearned_metrics(result: TrialResult) -> dict[str, float | None]:
    """The metrics of tasks before they are learned, or that never are; {} where the trial does not ask for them."""
    if not result.plan.bare:
        return {}
    main, bare = result.matrices["main"], result.bare_scores()
    return {
        "FWT_GEM": forward_transfer_before(main, bare),
        "ZSC": zero_shot_change(main, bare),
        **({"UNSEEN": unseen_change(result.unseen_scores(), bare)} if result.plan.unseen else {}),
    }


def columns(rows: Sequence[TableRow], paper: Paper | None = None) -> tuple[str, ...]:
    """Names of the metrics that a table of these rows shows: the paper's, or LiLoRA's; and those that were asked for:
    FWT, and those of `UNLEARNED`.
    """
    shown = PAPER_METRICS if paper is None else paper.metrics
    asked = any(result.plan.alone for row in rows for result in row.results)
    unlearned = [name for name in UNLEARNED if any(name in row.metrics for row in rows)]
    return (*shown, *(["FWT"] if asked and "FWT" not in shown else []), *unlearned)


def _beginning(matrix: Matrix, row: int, count: int) -> Matrix:
    if row + 1 == len(matrix.rows) and count == len(matrix.tasks):
        return matrix
    rows = tuple(cells[:count] for cells in matrix.rows[: row + 1])
    return Matrix(matrix.tasks[:count], rows, matrix.after[: row + 1])


@collector_paused()
def table(results: Sequence[TrialResult]) -> tuple[TableRow, ...]:
    """Rows in the order of the study, seeds averaged."""
    groups: dict[str, dict[tuple[str, ...], TrialResult]] = {}
    for result in results:
        what = tuple(score.digest for _, score in result.plan.cells.values())
        groups.setdefault(result.plan.group, {}).setdefault(what, result)
    return tuple(_row(name, tuple(group.values())) for name, group in groups.items())


def _row(name: str, trials: tuple[TrialResult, ...]) -> TableRow:
    results = tuple(result for result in trials if not result.num_missing) or trials
    lasts = [result.matrices["main"].last for result in results]
    each = [metrics_after(result) | unlearned_metrics(result) for result in results]
    by_name = [values | last for values, last in zip(each, lasts, strict=True)]
    return TableRow(
        name,
        results,
        {task: Stat.of(last[task] for last in lasts) for task in results[0].plan.tasks},
        {metric: Stat.of(values[metric] for values in each) for metric in each[0]},
        {
            name: {result.plan.trial.seed: values[name] for result, values in zip(results, by_name, strict=True)}
            for name in by_name[0]
        },
        next((result.trainable for result in results if result.trainable is not None), None),
        next((result.stored_parameters for result in results if result.stored_parameters is not None), None),
        max((result.kept_to_learn for result in results if result.kept_to_learn is not None), default=None),
        results[0].plan.trial.needs_task_id,
        "; ".join(filter(None, (_missing_note(trials), _unmoved_note(results), *(note(results[0]) for note in NOTES)))),
    )


def _missing_note(trials: Sequence[TrialResult]) -> str:
    missing = [result for result in trials if result.num_missing]
    if not missing:
        return ""
    if len(missing) < len(trials):
        return f"{len(missing)} of {len(trials)} seeds not finished, left out"
    cells = sum(result.plan.num_scores for result in trials)
    return f"{sum(result.num_missing for result in trials)} of {cells} cells not finished"


def _unmoved_note(results: Sequence[TrialResult]) -> str:
    """How many declared tensors no step of some stage moved, and in how many stages."""
    counts = [len(record.summary.get("unmoved", ())) for result in results for record in result.stages if record]
    with_some = [count for count in counts if count]
    return f"up to {max(with_some)} trained tensors did not move in {len(with_some)} stages" if with_some else ""


def _cut_note(result: TrialResult) -> str:
    """How many training rows were cut, by the records of the trial's stages."""
    cut = sum(int(record.summary.get("cut_rows", 0)) for record in result.stages if record)
    most = result.plan.trial.training.max_tokens
    return f"{cut:,} training rows were cut at {most:,} tokens" if cut else ""


def _absent_note(result: TrialResult) -> str:
    """Which tasks' official test splits have questions without a row, and how many."""
    last = len(result.plan.after) - 1
    cells = ((task, result.scores.get((last, place), {})) for place, task in enumerate(result.plan.tasks))
    absent = [f"{scores['absent']:,} of {task}" for task, scores in cells if scores.get("absent")]
    return f"official test questions without a row, counted as wrong: {', '.join(absent)}" if absent else ""


def _data_note(result: TrialResult) -> str:
    """Which rows were left out of the data, and how pictures are seen where that is a choice."""
    configs = {predict.config.task: dict(predict.inputs)["data"].config for predict, _ in result.plan.cells.values()}
    out = [
        f"{count:,} {split} rows of {task}"
        for task in result.plan.tasks
        for split, count in getattr(configs.get(task), "num_left_out", {}).items()
    ]
    said = [f"left out, since their pictures are missing or broken or the stream says so: {', '.join(out)}"]
    upright = any(getattr(config, "pictures", "") == "upright" for config in configs.values())
    return "; ".join([*(said if out else []), *(["pictures as a person sees them (upright)"] if upright else [])])


#: What is said under a table about a trial's data.
NOTES = (_cut_note, _absent_note, _data_note)


def best_of(rows: Sequence[TableRow]) -> dict[tuple[bool, str], float]:
    """(told the task, column) -> the best mean of the methods that learn in sequence, told and not told apart.

    Nothing of a group of one row: there is nothing to compare.
    """
    found: dict[tuple[bool, str], float] = {}
    for told in (False, True):
        group = [row for row in rows if row.schedule == "sequential" and row.needs_task_id is told]
        for row in group if len(group) > 1 else ():
            others = {name: row.metric(name) for name in ALIASES}
            for name, stat in {**row.accuracy, **row.metrics, **others}.items():
                if stat is not None:
                    found[told, name] = max(stat.mean, found.get((told, name), stat.mean))
    return found


def is_best(row: TableRow, stat: Stat, best: float | None) -> bool:
    """Whether a cell is set in bold: equal, as printed, to the `best` of its group (`best_of`)."""
    return best is not None and row.schedule == "sequential" and f"{stat.mean:.1f}" == f"{best:.1f}"


def mean_matrix(row: TableRow, key: str = "main") -> tuple[tuple[Stat | None, ...], ...]:
    """The row's matrix of this key, cell by cell over its trials."""
    matrices = [result.matrices[key] for result in row.results if key in result.matrices]
    if not matrices:
        return ()
    return tuple(
        tuple(Stat.of(matrix.rows[place][column] for matrix in matrices) for column in range(len(matrices[0].tasks)))
        for place in range(len(matrices[0].rows))
    )
