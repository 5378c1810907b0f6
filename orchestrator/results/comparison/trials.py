"""Two trials against each other: configuration, environment, metrics, tasks, and item by item by kind of error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.planning.lowering import Lowered, TrialPlan
from orchestrator.results.answers.cases import FORGOTTEN, LABELS, cases
from orchestrator.results.answers.errors import KINDS
from orchestrator.results.comparison.differences import Asked, Difference, differences, is_defined
from orchestrator.results.comparison.studies import changed
from orchestrator.results.reading import ResultReader, TrialResult
from orchestrator.results.table import TableRow, columns, table

if TYPE_CHECKING:
    import polars

#: Which of the two trials has an item right after its last stage.
BOTH, ONLY_A, ONLY_B, NEITHER = "both", "only a", "only b", "neither"
#: Facts of a record that differ between any two runs and say nothing.
UNSAID = ("process",)


@dataclass(frozen=True)
class Figure:
    """A metric, or a task's score, of both trials.

    Attributes:
        a, b: the trials' own values, in percent or points; None where not finished.
        items: b minus a of these two trials, with the interval over items.
        seeds: the same of their rows, over all seeds of each, without items; None where both are of one row, or one
            trial has no such metric.
    """

    name: str
    a: float | None
    b: float | None
    items: Difference
    seeds: Difference | None

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        seeds = None if self.seeds is None else self.seeds.to_json()
        return {"name": self.name, "a": self.a, "b": self.b, "trials": self.items.to_json(), "rows": seeds}


@dataclass(frozen=True)
class TrialDiff:
    """What two trials differ in.

    Attributes:
        a, b: the trials.
        configuration: fields that differ -> the two values.
        environment: facts that differ -> the values that steps of each trial have on record.
        metrics, tasks: the figures; a task's score after the last stage.
        items: a row for each item of a task that both answered after their last stage: `task`, `id`, `question`,
            `references`, `who` (has it right), and of each trial (`_a`, `_b`) `answer`, `score`, `label`, `error`,
            `error_task`.
    """

    a: TrialPlan
    b: TrialPlan
    configuration: Mapping[str, tuple[Any, Any]]
    environment: Mapping[str, tuple[str, str]]
    metrics: tuple[Figure, ...]
    tasks: tuple[Figure, ...]
    items: polars.DataFrame

    def who(self) -> polars.DataFrame:
        """Of each task how many items both, one or neither has right, and by which kind of error the other is wrong."""
        import polars as pl

        wrong = pl.when(pl.col("who") == ONLY_A).then("error_b").when(pl.col("who") == ONLY_B).then("error_a")
        counted = self.items.with_columns(wrong.alias("error")).group_by("task", "who", "error", maintain_order=True)
        return counted.len("items")

    def became(self) -> polars.DataFrame:
        """Of each trial ("a" or "b") and task how many items have each label, and the errors of the forgotten."""
        import polars as pl

        sides = [
            self.items.select(
                pl.lit(side).alias("trial"),
                "task",
                pl.col(f"label_{side}").alias("label"),
                pl.when(pl.col(f"label_{side}") == FORGOTTEN).then(f"error_{side}").alias("error"),
            )
            for side in ("a", "b")
        ]
        return pl.concat(sides).group_by("trial", "task", "label", "error", maintain_order=True).len("items")

    def to_json(self) -> dict[str, Any]:
        """For machines; of the items those alone that one trial has right and the other wrong, or either forgot."""
        import polars as pl

        either = (pl.col("label_a") == FORGOTTEN) | (pl.col("label_b") == FORGOTTEN)
        chosen = self.items.filter(pl.col("who").is_in([ONLY_A, ONLY_B]) | either.fill_null(False))
        return {
            "a": {"name": self.a.name, "digest": self.a.digest},
            "b": {"name": self.b.name, "digest": self.b.digest},
            "configuration": {name: list(values) for name, values in self.configuration.items()},
            "environment": {name: list(values) for name, values in self.environment.items()},
            "metrics": [figure.to_json() for figure in self.metrics],
            "tasks": [figure.to_json() for figure in self.tasks],
            "who": self.who().to_dicts(),
            "became": self.became().to_dicts(),
            "kinds": list(KINDS),
            "labels": list(LABELS),
            "items": chosen.to_dicts(),
        }


def diff(a: TrialPlan, b: TrialPlan, studies: tuple[Lowered, Lowered], reader: ResultReader) -> TrialDiff:
    """`b` against `a`, as far as the store of `reader` has them.

    Args:
        studies: that each is of: trials of one row are seeds of each other.
    """
    own = [_own_row(plan, reader) for plan in (a, b)]
    rows = [_row(plan, study, reader) for plan, study in zip((a, b), studies, strict=True)]
    # Two seeds of one row have no rows to set against each other.
    apart = {result.plan.digest for result in rows[0].results}.isdisjoint(
        result.plan.digest for result in rows[1].results
    )
    items = reader.last_items([result for row in own for result in row.results])
    metrics, tasks = columns(own), list(dict.fromkeys([*a.tasks, *b.tasks]))
    names = [*metrics, *tasks]
    of_trials = differences([(own[1], own[0], name) for name in names], items)
    family: list[Asked] = [
        (rows[1], rows[0], name) for name in names if apart and all(is_defined(row, name) for row in own)
    ]
    of_rows = {each.metric: each for each in differences(family)}
    figures = [
        Figure(name, _value(own[0], name), _value(own[1], name), difference, of_rows.get(name))
        for name, difference in zip(names, of_trials, strict=True)
    ]
    results = own[0].results[0], own[1].results[0]
    return TrialDiff(
        a,
        b,
        _configuration(own),
        _environment(results, reader),
        tuple(figures[: len(metrics)]),
        tuple(figures[len(metrics) :]),
        _items(a, b, reader),
    )


def _own_row(plan: TrialPlan, reader: ResultReader) -> TableRow:
    return table([reader.trial(plan)])[0]


def _row(plan: TrialPlan, study: Lowered, reader: ResultReader) -> TableRow:
    """The row of the trial: itself and its other seeds."""
    return table([reader.trial(each) for each in study.trials if each.group == plan.group])[0]


def _value(row: TableRow, name: str) -> float | None:
    stat = row.metric(name) or row.accuracy.get(name)
    return None if stat is None else stat.mean


def _configuration(own: Sequence[TableRow]) -> dict[str, tuple[Any, Any]]:
    """`changed`, and the seed."""
    seeds = own[0].results[0].plan.trial.seed, own[1].results[0].plan.trial.seed
    found = changed(own[0], own[1]) if seeds[0] == seeds[1] or _parameters_differ(own) else {}
    return found | ({"seed": seeds} if seeds[0] != seeds[1] else {})


def _parameters_differ(own: Sequence[TableRow]) -> bool:
    first, second = (dict(row.results[0].plan.bound.parameters) | {"seed": 0} for row in own)
    return first != second


def _environment(results: tuple[TrialResult, TrialResult], reader: ResultReader) -> dict[str, tuple[str, str]]:
    """Facts on record of which the two trials' steps have other values: each side's, in a line."""
    sides = []
    for result in results:
        steps = [*result.plan.stages, *(step for pair in result.plan.cells.values() for step in pair)]
        records = [record for step in steps if (record := reader.record(step.digest)) is not None]
        facts: dict[str, set[str]] = {}
        for record in records:
            for name, value in _flat({**record.environment, **record.provenance}):
                if name not in UNSAID:
                    facts.setdefault(name, set()).add(value)
        sides.append(facts)
    first, second = sides
    return {
        name: (", ".join(sorted(first.get(name, ()))), ", ".join(sorted(second.get(name, ()))))
        for name in dict.fromkeys([*first, *second])
        if first and second and first.get(name) != second.get(name)
    }


def _flat(facts: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    found = []
    for name, value in facts.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{name}.")
        else:
            found.append((prefix + name, str(value)))
    return found


def _items(a: TrialPlan, b: TrialPlan, reader: ResultReader) -> polars.DataFrame:
    """See `TrialDiff.items`; items are the same where they are of one task, with one id and one question."""
    import polars as pl

    told = ["answer", "score", "label", "error", "error_task"]
    found = cases([a, b], reader.store).rename({"last": "score"}).filter(pl.col("score").is_not_null())
    found = found.with_columns(pl.col("error").is_null().alias("right"))
    sides = [found.filter(pl.col("trial") == number) for number in (0, 1)]
    on = ["task", "id", "question"]
    both = sides[0].select(*on, "references", "right", *told).join(
        sides[1].select(*on, "right", *told), on=on, suffix="_b", maintain_order="left"
    )  # fmt: skip
    both = both.rename({name: f"{name}_a" for name in ("right", *told)})
    who = (
        pl.when(pl.col("right_a") & pl.col("right_b")).then(pl.lit(BOTH))
        .when("right_a").then(pl.lit(ONLY_A))
        .when("right_b").then(pl.lit(ONLY_B))
        .otherwise(pl.lit(NEITHER))
    )  # fmt: skip
    return both.with_columns(who.alias("who")).drop("right_a", "right_b")
