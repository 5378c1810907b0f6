"""Stored answers and their scores as one polars frame, a row for each item that was answered after each stage.

Every file of a store is read once, whatever number of trials share it, and all files of a kind in one go. What is not
there, or cannot be read, has no rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from lilora.measures.words import normalise_answer
from orchestrator.planning.lowering import TrialPlan
from orchestrator.results.answers.errors import number_in, with_errors
from orchestrator.results.answers.tables import read_tables
from orchestrator.storage.store import Store

if TYPE_CHECKING:
    import polars

#: Percent. Most scores of items are 0 or 100, and there it makes no difference; of VQA's shares of ten annotators it
#: asks for two of them (60), of a caption for half of its measure.
RIGHT_FROM = 50.0
#: All of a trial's rows; those of each task's own stage and the last; or the last alone.
Stages = Literal["all", "ends", "last"]


def items(
    trials: Iterable[TrialPlan], store: Store, stages: Stages = "all", right_from: float = RIGHT_FROM
) -> polars.DataFrame:
    """A row for each item that a trial answered after a stage, in the order of trials, tasks, rows and data.

    Columns: `trial` (the place among `trials`, from 0), `name`, `group`, `seed`, `task`, `row` (from 0) and `after`
    (its name), `own` and `last` (whether that is the task's own stage, and the trial's last), `id`, `place` (of the
    item in its split's file), `answer`, `references`, `score`, `strict`, `lenient` (in percent), `following` (0 or 1),
    `right`, `error` and `error_task` (`orchestrator.results.answers.errors`), `data`, `predictions`, `scores` (digests
    of what it was read from).

    Args:
        stages: after which each item is wanted.
        right_from: an answer is right from this score on, in percent.
    """
    plans = list(trials)
    cells, long = judged_items(plans, store, stages, right_from)
    where = cells.select("trial", "task", "row", "after", "data", "predictions", "scores")
    long = long.join(about_trials(plans), on="trial", how="left", maintain_order="left")
    return long.join(where, on=["trial", "task", "row"], how="left", maintain_order="left").select(
        "trial", "name", "group", "seed", "task", "row", "after", "own", "last", "id", "place", "answer", "references",
        "score", "strict", "lenient", "following", "right", "error", "error_task", "data", "predictions", "scores",
    )  # fmt: skip


def about_trials(plans: Sequence[TrialPlan]) -> polars.DataFrame:
    """`name`, `group` and `seed` of each `trial` (its place, from 0)."""
    import polars as pl

    return pl.DataFrame(
        [(number, plan.name, plan.group, plan.trial.seed) for number, plan in enumerate(plans)],
        schema={"trial": pl.Int32, "name": pl.String, "group": pl.String, "seed": pl.Int64},
        orient="row",
    )


def judged_items(
    plans: Sequence[TrialPlan], store: Store, stages: Stages, right_from: float = RIGHT_FROM
) -> tuple[polars.DataFrame, polars.DataFrame]:
    """The cells that were answered, and their items: `items`, with numbers in place of what all of a cell have alike.

    Of the cells: `trial`, `task`, `row`, `after`, and the digests `data`, `predictions` and `scores`.
    """
    cells = _cells(plans, stages)
    # Long keys are compared once a cell, not once an item: `cell` and `data_number` stand for them.
    digests = ["data", "split", "predictions", "scores"]
    made = cells.select(digests).unique(maintain_order=True).with_row_index("cell")
    cells = cells.join(made, on=digests, how="left", maintain_order="left")
    present = store.digests()
    truths = _truths(store, made, present)
    known = joined(_answers(store, made, present), truths, ["data_number", "id"]).sort("cell", "place")
    long = cells.select("trial", "stream", "task", "row", "own", "last", "cell").join(
        known.drop("data_number"), on="cell", how="inner", maintain_order="left_right"
    )
    return cells, with_errors(long, _vocabularies(cells, truths), right_from)


def _cells(plans: Sequence[TrialPlan], stages: Stages) -> polars.DataFrame:
    """A row for each cell of each trial: where it stands, and what it is read from.

    `stream` numbers what the trial's tasks are: equal for trials whose tasks, their order and data are equal.
    """
    import polars as pl

    rows = []
    streams: dict[tuple[Any, ...], int] = {}
    for number, plan in enumerate(plans):
        # A task's data are those of each of its cells.
        of_tasks = {
            column: dict(plan.cells[cell][0].inputs)["data"].digest
            for column, cell in {column: (row, column) for row, column in plan.cells}.items()
        }
        stream = streams.setdefault((plan.tasks, *of_tasks.values()), len(streams))
        learned = {column: learned_row(plan, column) for column in of_tasks}
        for row, column in sorted(plan.cells, key=lambda cell: cell[::-1]):
            own, last = row == learned[column], row == len(plan.after) - 1
            if stages == "all" or last or (stages == "ends" and own):
                predict, score = plan.cells[row, column]
                place = (number, stream, plan.tasks[column], column, row, plan.after[row], own, last)
                rows.append((*place, of_tasks[column], score.config.split, predict.digest, score.digest))
    schema = {
        "trial": pl.Int32, "stream": pl.Int32, "task": pl.String, "column": pl.Int32, "row": pl.Int32,
        "after": pl.String, "own": pl.Boolean, "last": pl.Boolean,
        **dict.fromkeys(("data", "split", "predictions", "scores"), pl.String),
    }  # fmt: skip
    return pl.DataFrame(rows, schema=schema, orient="row")


def own_scores(trials: Iterable[TrialPlan], store: Store) -> polars.DataFrame:
    """The `score` (in percent) of each item after its task's own stage: `trial`, `task`, `id`, and no answer read."""
    import polars as pl

    cells = _cells(list(trials), "ends").filter("own")
    files = cells["scores"].unique(maintain_order=True)
    judged = read_tables(store, [(digest, "items.parquet") for digest in files], ["id", "main"])
    numbers = pl.DataFrame({"scores": files}).with_row_index("file")
    asked = cells.join(numbers, on="scores", how="left", maintain_order="left").select("trial", "task", "file")
    found = asked.join(judged, on="file", maintain_order="left_right")
    return found.select("trial", "task", "id", (pl.col("main") * 100).alias("score"))


def learned_row(plan: TrialPlan, column: int) -> int | None:
    """The row (from 0) after which a task (its column) counts as learned; None where nothing is."""
    if not plan.stages:
        return None
    return next(row for row in range(len(plan.after)) if column < plan.num_learned(row))


def read_truths(
    store: Store, data: Sequence[tuple[str, str]], columns: Sequence[str], present: frozenset[str] | None = None
) -> polars.DataFrame:
    """These columns of data files (digest, split), with `file` (its number in `data`) and `place` (from 0) of each row.

    `references` are as the scoring step has them: where there are none, the answer that is learned.
    """
    import polars as pl

    found = read_tables(store, [(digest, f"{split}.parquet") for digest, split in data], columns, present)
    found = found.with_columns(pl.int_range(pl.len(), dtype=pl.UInt32).over("file").alias("place"))
    if "references" in columns:
        given = pl.col("references").list.len() > 0
        right = pl.when(given).then("references").otherwise(pl.concat_list("answer"))
        found = found.with_columns(right.alias("references")).drop("answer")
    return found


def _truths(store: Store, made: polars.DataFrame, present: frozenset[str]) -> polars.DataFrame:
    """`data_number` (the first cell of its data), `id`, `place`, `references` and the `numbers` among them."""
    import polars as pl

    firsts = made.unique(["data", "split"], keep="first", maintain_order=True)
    found = read_truths(store, firsts.select("data", "split").rows(), ["id", "answer", "references"], present)
    rights = found["references"].explode().unique().drop_nulls().to_list()
    numbers = pl.element().replace_strict(
        rights, [number_in(text) for text in rights], default=None, return_dtype=pl.Int64
    )
    return found.select(
        firsts["cell"].gather(found["file"]).alias("data_number"),
        "id",
        "place",
        "references",
        pl.col("references").list.eval(numbers).alias("numbers"),
    )


def _answers(store: Store, made: polars.DataFrame, present: frozenset[str]) -> polars.DataFrame:
    """Answer and scores of each item of each `cell` that is there, and the `data_number` that it is about."""
    import polars as pl

    first = pl.col("cell").first().over("data", "split").alias("data_number")
    asked = made.select("cell", first, "predictions", "scores")
    digests = asked["predictions"].unique(maintain_order=True)
    numbers = pl.DataFrame({"predictions": digests}).with_row_index("answers")
    asked = asked.join(numbers, on="predictions", how="left", maintain_order="left")
    files = [(digest, "predictions.parquet") for digest in digests]
    answers = read_tables(store, files, ["id", "prediction"], present)
    answers = answers.rename({"file": "answers", "prediction": "answer"})
    names = ["id", "main", "strict", "lenient", "following"]
    judged = read_tables(store, [(digest, "items.parquet") for digest in asked["scores"]], names, present)
    numbered = judged.with_columns(asked[name].gather(judged["file"]) for name in ("cell", "data_number", "answers"))
    found = joined(numbered, answers, ["answers", "id"]).drop("file", "answers")
    return found.with_columns(pl.col("main", "strict", "lenient") * 100, pl.col("answer").fill_null("")).rename(
        {"main": "score"}
    )


def joined(left: polars.DataFrame, right: polars.DataFrame, on: Sequence[str]) -> polars.DataFrame:
    """`left` and what `right` has of the same items, those with equal `on`; in the order of `left`.

    Every step keeps the order of the data, so that mostly both have the same items in the same order: then they are
    laid side by side, which takes no search.
    """
    if left.select(on).equals(right.select(on)):
        return left.hstack(right.drop(on))
    return left.join(right, on=list(on), how="left", maintain_order="left")


def _vocabularies(cells: polars.DataFrame, truths: polars.DataFrame) -> polars.DataFrame:
    """Every right answer of each task of each stream; see `with_errors`."""
    import polars as pl

    rights = truths.select("data_number", pl.col("references").alias("answer")).explode("answer").drop_nulls().unique()
    texts = rights["answer"].unique().to_list()
    plain = pl.col("answer").replace_strict(
        texts, [normalise_answer(text) for text in texts], default=None, return_dtype=pl.String
    )
    rights = rights.with_columns(plain).unique()
    first = pl.col("cell").first().over("data", "split").alias("data_number")
    tasks = cells.sort("cell").select("stream", "task", pl.col("column").alias("place"), first).unique()
    return tasks.join(rights, on="data_number").select("stream", "task", "place", "answer")
