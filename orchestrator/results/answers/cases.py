"""Cases: each item of each task with its question, right answers, and a trial's answers after each of its stages.

A case is "kept", "forgotten", "gained" or "never" by whether the answer is right after the task's own stage and after
the last one. Of a task of which either is missing, and where nothing was learned, it is none of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.planning.data import pictures_here
from orchestrator.planning.lowering import TrialPlan
from orchestrator.results.answers.items import (
    RIGHT_FROM,
    about_trials,
    items,
    joined,
    judged_items,
    own_scores,
    read_truths,
)
from orchestrator.results.answers.tables import PICTURE, read_tables
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
        `read_pictures` has the pictures.
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
            at("score", pl.col("own")).alias("own"),
            at("score", pl.col("last")).alias("last"),
            at("answer", pl.col("last")).alias("answer"),
            at("error", pl.col("last")).alias("error"),
            at("error_task", pl.col("last")).alias("error_task"),
            at("scores", pl.col("last")).alias("digest"),
        )
        .with_columns(_label(right_from))
    )
    return found.join(_questions(plans, store), on=["data", "place"], how="left", maintain_order="left").select(
        "trial", "name", "group", "seed", "task", "id", "type", "question", "references", "data", "split", "place",
        "picture", "after", "answers", "scores", "own", "last", "label", "answer", "error", "error_task", "predictions",
        "digest",
    )  # fmt: skip


def became(trials: Iterable[TrialPlan], store: Store, right_from: float = RIGHT_FROM) -> polars.DataFrame:
    """How many items of each task of each trial have each label, and the last answer's kind of error.

    The same as `cases` counted, read from each task's own stage and the last alone. Columns: `trial`, `name`, `group`,
    `seed`, `task`, `label`, `error`, `items`.
    """
    import polars as pl

    plans = list(trials)
    _, last = judged_items(plans, store, "last", right_from)
    last = last.select("trial", "task", "id", "error", pl.col("score").alias("last"))
    own = own_scores(plans, store).rename({"score": "own"})
    found = joined(last, own, ["trial", "task", "id"]).with_columns(_label(right_from))
    counted = found.group_by("trial", "task", "label", "error", maintain_order=True).len("items")
    return counted.join(about_trials(plans), on="trial", how="left", maintain_order="left").select(
        "trial", "name", "group", "seed", "task", "label", "error", "items"
    )


def read_pictures(store: Store, data: str, split: str, places: Iterable[int]) -> list[bytes | None]:
    """The encoded pictures of some items (their `place`): what the data hold, or the file in the image folder.

    None for an item without a picture, and for one whose file is not on this machine.
    """
    import polars as pl

    wanted = list(places)
    table = read_tables(store, [(data, f"{split}.parquet")], ["image"])
    if "image" not in table.columns:
        return [None] * len(wanted)
    fields = [pl.col("image").struct.field(name).gather(wanted) for name in ("bytes", "path")]
    folder = pictures_here(store.fetch(data))
    return [held if held is not None else _file(folder, path) for held, path in table.select(*fields).rows()]


def _file(folder: Path | None, path: str | None) -> bytes | None:
    """A picture's file; None where it is not there."""
    if folder is None or not path:
        return None
    try:
        return (folder / path).read_bytes()
    except OSError:
        return None


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
    read = list(dict.fromkeys(wanted))
    texts = read_truths(store, read, ["instruction", "type", PICTURE])
    names = pl.DataFrame(read, schema={"data": pl.String, "split": pl.String}, orient="row").with_row_index("file")
    texts = texts.join(names, on="file", how="left", maintain_order="left")
    return texts.select("data", "split", "place", pl.col("instruction").alias("question"), "type", PICTURE)
