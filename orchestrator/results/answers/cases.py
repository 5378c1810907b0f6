"""Cases: each item of each task with its question, right answers, and a trial's answers after each of its stages.

A case is "kept", "forgotten", "gained" or "never" by whether the answer is right after the task's own stage and after
the last one. Of a task of which either is missing, and where nothing was learned, it is none of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from orchestrator.planning.lowering import TrialPlan
from orchestrator.results.answers.items import PICTURE, RIGHT_FROM, items, learned_row, read_tables, read_truths
from orchestrator.storage.store import Store

if TYPE_CHECKING:
    import polars

KEPT, FORGOTTEN, GAINED, NEVER = "kept", "forgotten", "gained", "never"
LABELS = (FORGOTTEN, KEPT, GAINED, NEVER)


def cases(trials: Iterable[TrialPlan], store: Store, right_from: float = RIGHT_FROM) -> polars.DataFrame:
    """A row for each item that a trial answered, in the order of trials, tasks and data.

    Columns:
        `trial` (the place among `trials`, from 0), `name`, `group`, `seed`, `task`, `id`, `type` of question: whose.
        `question` (with its template), `references` (the right answers), `data` (digest), `split`, `place` (from 0, in
        the split's file) and `picture` (its path below the image folder; null where the data hold it): what was asked;
        `read_pictures` has the pictures that the data hold.
        `after`, `answers`, `scores` (in percent): lists, an element for each stage after which the item was answered.
        `own`, `last`: the score right after the task's own stage, and after the last; null where it is not there.
        `label`: one of `LABELS`, or null.
        `answer`, `error`, `error_task`: the last answer, its kind of error and whose it is
        (`orchestrator.results.answers.errors`); null where it is right, or not there.
        `predictions` (a list), `digest` (of the last scores): what it was read from.

    Args:
        right_from: an answer is right from this score on, in percent.
    """
    import polars as pl

    plans = list(trials)
    long = items(plans, store, right_from=right_from)
    rows = [
        (number, task, learned_row(plan, column), len(plan.after) - 1)
        for number, plan in enumerate(plans)
        for column, task in enumerate(plan.tasks)
    ]
    names = {"trial": pl.Int32, "task": pl.String, "own_row": pl.Int32, "last_row": pl.Int32}
    long = long.join(pl.DataFrame(rows, schema=names, orient="row"), on=["trial", "task"], how="left")
    own, last = pl.col("row") == pl.col("own_row"), pl.col("row") == pl.col("last_row")

    def at(column: str, when: pl.Expr) -> pl.Expr:
        return pl.col(column).filter(when).first()

    found = (
        long.group_by("trial", "name", "group", "seed", "task", "id", maintain_order=True)
        .agg(
            pl.col("data", "place", "references").first(),
            pl.col("after"),
            pl.col("answer").alias("answers"),
            pl.col("score").alias("scores"),
            pl.col("predictions"),
            at("score", own).alias("own"),
            at("score", last).alias("last"),
            at("answer", last).alias("answer"),
            at("error", last).alias("error"),
            at("error_task", last).alias("error_task"),
            at("scores", last).alias("digest"),
        )
        .with_columns(_label(right_from))
    )
    return found.join(_questions(plans, store), on=["data", "place"], how="left", maintain_order="left").select(
        "trial", "name", "group", "seed", "task", "id", "type", "question", "references", "data", "split", "place",
        "picture", "after", "answers", "scores", "own", "last", "label", "answer", "error", "error_task", "predictions",
        "digest",
    )  # fmt: skip


def read_pictures(store: Store, data: str, split: str, places: Iterable[int]) -> list[bytes | None]:
    """The encoded pictures of some items (their `place`) that the data hold; None where they do not.

    Pictures of published data lie in an image folder on the machine that ran it, by the case's `picture`.
    """
    import polars as pl

    wanted = list(places)
    table = read_tables(store, {data: f"{split}.parquet"}, ["image"])
    if "image" not in table.columns:
        return [None] * len(wanted)
    pictures: list[bytes | None] = (
        table.select(pl.col("image").struct.field("bytes").gather(wanted)).to_series().to_list()
    )
    return pictures


def _label(right_from: float) -> polars.Expr:
    import polars as pl

    own, last = pl.col("own") >= right_from, pl.col("last") >= right_from
    named = pl.when(own & last).then(pl.lit(KEPT)).when(own).then(pl.lit(FORGOTTEN)).when(last).then(pl.lit(GAINED))
    label = pl.when(own.is_not_null() & last.is_not_null()).then(named.otherwise(pl.lit(NEVER)))
    return label.cast(pl.Enum(LABELS)).alias("label")


def _questions(plans: Iterable[TrialPlan], store: Store) -> polars.DataFrame:
    """Question, type and picture's path of each item of the data, by `data` and `place`."""
    import polars as pl

    wanted = [
        (dict(predict.inputs)["data"].digest, score.config.split)
        for plan in plans
        for predict, score in plan.cells.values()
    ]
    read = pl.DataFrame(list(dict.fromkeys(wanted)), schema={"data": pl.String, "split": pl.String}, orient="row")
    texts = read_truths(store, read, store.digests(), ["instruction", "type", PICTURE])
    return texts.select("data", "split", "place", pl.col("instruction").alias("question"), "type", PICTURE)
