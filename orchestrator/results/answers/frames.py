"""A study's results as polars frames: its trials, the cells of their matrices, the items of the cells, and cases."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from orchestrator.planning.lowering import Lowered
from orchestrator.results.answers import cases, items
from orchestrator.results.reading import ResultReader, TrialResult
from orchestrator.results.table import metrics_after, unlearned_metrics
from orchestrator.storage.store import Store

if TYPE_CHECKING:
    import polars


@dataclass(frozen=True)
class StudyFrames:
    """What a store holds of a study. What is not finished is null, or has no row."""

    lowered: Lowered
    store: Store

    @cached_property
    def _results(self) -> tuple[TrialResult, ...]:
        return ResultReader(self.store).trials(self.lowered)

    def trials(self) -> polars.DataFrame:
        """A row for each trial: `name`, `group` (without the seed), `digest`, its metrics after the last stage (names
        as in a table, scores in percent), `trainable` and `stored` parameters, `kept_to_learn` (bytes), training
        `seconds`, `missing` (scores that are not there), and the fields of its configuration ("method.rank", "seed").
        """
        return _frame(
            {
                "name": result.plan.name,
                "group": result.plan.group,
                "digest": result.plan.digest,
                **metrics_after(result),
                **unlearned_metrics(result),
                "trainable": result.trainable,
                "stored": result.stored_parameters,
                "kept_to_learn": result.kept_to_learn,
                "seconds": result.seconds,
                "missing": result.num_missing,
                **{name: _plain(value) for name, value in result.plan.bound.parameters.items()},
            }
            for result in self._results
        )

    def cells(self) -> polars.DataFrame:
        """A row for each finished cell of each trial's matrices: `name`, `group`, `seed`, `task`, `column`, `row` (both
        from 0), `after` (the row's name), `main`, `strict`, `lenient` (in percent), `following` (in percent), `count`
        of items, and `digest` of the scores.
        """
        return _frame(
            {
                "name": result.plan.name,
                "group": result.plan.group,
                "seed": result.plan.trial.seed,
                "task": result.plan.tasks[column],
                "column": column,
                "row": row,
                "after": result.plan.after[row],
                **{key: scores.get(key) for key in ("main", "strict", "lenient", "following", "count")},
                "digest": result.plan.cells[row, column][1].digest,
            }
            for result in self._results
            for (row, column), scores in result.scores.items()
        )

    def items(self, stages: items.Stages = "all") -> polars.DataFrame:
        """A row for each item that was answered after each stage; see `orchestrator.results.answers.items`."""
        return items.items(self.lowered.trials, self.store, stages)

    def cases(self) -> polars.DataFrame:
        """A row for each item of each trial, with what became of it; see `orchestrator.results.answers.cases`."""
        return cases.cases(self.lowered.trials, self.store)


def _frame(rows: Any) -> polars.DataFrame:
    import polars

    return polars.DataFrame(list(rows), infer_schema_length=None, strict=False)


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
