"""Stored answers and their scores as one polars frame, a row for each item that was answered after each stage.

Every file of a store is read once, whatever number of trials share it, and all files of a kind in one go. What is not
there, or cannot be read, has no rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lilora.measures.words import normalise_answer
from orchestrator.planning.lowering import TrialPlan
from orchestrator.results.answers.errors import with_errors
from orchestrator.storage.store import Store

if TYPE_CHECKING:
    import polars

#: Percent. Most scores of items are 0 or 100, and there it makes no difference; of VQA's shares of ten annotators it
#: asks for two of them (60), of a caption for half of its measure.
RIGHT_FROM = 50.0
#: What of a picture's column `read_tables` reads under this name: its path.
PICTURE = "picture"


def items(
    trials: Iterable[TrialPlan], store: Store, last_only: bool = False, right_from: float = RIGHT_FROM
) -> polars.DataFrame:
    """A row for each item that a trial answered after a stage, in the order of trials, tasks, rows and data.

    Columns: `trial` (the place among `trials`, from 0), `name`, `group`, `seed`, `task`, `row` (from 0) and `after`
    (its name), `id`, `place` (of the item in its split's file), `answer`, `references`, `score`, `strict`, `lenient`
    (in percent), `following` (0 or 1), `right`, `error` and `error_task` (`orchestrator.results.answers.errors`),
    `data`, `predictions`, `scores` (digests of what it was read from).

    Args:
        last_only: of each trial its last row alone.
        right_from: an answer is right from this score on, in percent.
    """
    import polars as pl

    plans = list(trials)
    cells = _cells(plans, last_only)
    made = cells.select("data", "split", "predictions", "scores").unique(maintain_order=True)
    present = store.digests()
    truths = read_truths(store, made, present, ["id", "answer", "references"])
    found = _answers(store, made, present)
    known = found.join(
        truths.select("data", "split", "id", "place", "references"), on=["data", "split", "id"], how="left"
    )
    known = known.sort("scores", "place", nulls_last=True, maintain_order=True)
    keys = ["data", "split", "predictions", "scores"]
    long = cells.join(known, on=keys, how="inner", maintain_order="left_right")
    vocabularies = _vocabularies(cells, truths)
    long = with_errors(long, vocabularies, right_from)
    about = pl.DataFrame(
        {
            "trial": range(len(plans)),
            "name": [plan.name for plan in plans],
            "group": [plan.group for plan in plans],
            "seed": [plan.trial.seed for plan in plans],
        },
        schema={"trial": pl.Int32, "name": pl.String, "group": pl.String, "seed": pl.Int64},
    )
    return long.join(about, on="trial", how="left", maintain_order="left").select(
        "trial", "name", "group", "seed", "task", "row", "after", "id", "place", "answer", "references", "score",
        "strict", "lenient", "following", "right", "error", "error_task", "data", "predictions", "scores",
    )  # fmt: skip


def _cells(plans: Sequence[TrialPlan], last_only: bool) -> polars.DataFrame:
    """A row for each cell of each trial: where it stands, and what it is read from."""
    import polars as pl

    rows = []
    for number, plan in enumerate(plans):
        for (row, column), (predict, score) in sorted(plan.cells.items(), key=lambda cell: cell[0][::-1]):
            if last_only and row < len(plan.after) - 1:
                continue
            data = dict(predict.inputs)["data"].digest
            place = (number, plan.tasks[column], column, row, plan.after[row])
            rows.append((*place, data, score.config.split, predict.digest, score.digest))
    names = ("task", "after", "data", "split", "predictions", "scores")
    schema = {"trial": pl.Int32, "task": pl.String, "column": pl.Int32, "row": pl.Int32}
    return pl.DataFrame(rows, schema=schema | dict.fromkeys(names[1:], pl.String), orient="row")


def learned_row(plan: TrialPlan, column: int) -> int | None:
    """The row (from 0) after which a task (its column) counts as learned; None where nothing is."""
    if not plan.stages:
        return None
    return next(row for row in range(len(plan.after)) if column < plan.num_learned(row))


def read_tables(store: Store, files: Mapping[str, str], columns: Sequence[str]) -> polars.DataFrame:
    """These columns of Parquet files (digest -> name in its artifact), and the `digest` of each row.

    A file that cannot be read has no rows; a column that one lacks is null in its rows.
    """
    import polars as pl

    paths = {str(store.fetch(digest) / name): digest for digest, name in files.items()}
    try:
        return _scan(paths, columns)
    except (OSError, pl.exceptions.PolarsError):
        found = []
        for path, digest in paths.items():
            try:
                found.append(_scan({path: digest}, columns))
            except (OSError, pl.exceptions.PolarsError):
                continue
        return pl.concat(found, how="diagonal_relaxed") if found else pl.DataFrame(schema={"digest": pl.String})


def _scan(paths: Mapping[str, str], columns: Sequence[str]) -> polars.DataFrame:
    import polars as pl

    scan = pl.scan_parquet(list(paths), glob=False, include_file_paths="_path", extra_columns="ignore")
    there = set(scan.collect_schema().names())
    chosen: list[Any] = [name for name in columns if name in there]
    if PICTURE in columns and "image" in there:
        chosen.append(pl.col("image").struct.field("path").alias(PICTURE))
    table = scan.select("_path", *chosen).collect()
    digests = pl.col("_path").replace_strict(list(paths), list(paths.values()), return_dtype=pl.String)
    return table.with_columns(digests.alias("digest")).drop("_path")


def read_truths(
    store: Store, wanted: polars.DataFrame, present: Iterable[str], columns: Sequence[str]
) -> polars.DataFrame:
    """These columns of the data that answers were about, with `data` (digest), `split` and `place` (from 0) of each.

    Args:
        wanted: has `data` and `split`.
    """
    import polars as pl

    there = frozenset(present)
    found = []
    for digest, split in wanted.select("data", "split").unique(maintain_order=True).rows():
        if digest in there:
            table = read_tables(store, {digest: f"{split}.parquet"}, columns)
            if table.width > 1:
                table = table.with_row_index("place").with_columns(pl.lit(split).alias("split"))
                found.append(table.rename({"digest": "data"}))
    empty: dict[str, Any] = {"data": pl.String, "split": pl.String, "place": pl.UInt32}
    empty |= {name: pl.List(pl.String) if name == "references" else pl.String for name in columns}
    frame = pl.concat([pl.DataFrame(schema=empty), *found], how="diagonal_relaxed")
    if "answer" in columns and "references" in columns:
        # As the scoring step has it: where no list of right answers is there, the answer that is learned is the one.
        given = pl.col("references").list.len() > 0
        frame = frame.with_columns(
            pl.when(given).then("references").otherwise(pl.concat_list("answer")).alias("references")
        )
    return frame


def _answers(store: Store, made: polars.DataFrame, present: Iterable[str]) -> polars.DataFrame:
    """Answer and scores of each item of each cell that is there."""
    import polars as pl

    there = frozenset(present)
    made = made.filter(pl.col("predictions").is_in(list(there)) & pl.col("scores").is_in(list(there)))
    predictions, scores = (dict.fromkeys(made[name].unique(maintain_order=True)) for name in ("predictions", "scores"))
    answers = read_tables(store, dict.fromkeys(predictions, "predictions.parquet"), ["id", "prediction"])
    judged = read_tables(
        store, dict.fromkeys(scores, "items.parquet"), ["id", "main", "strict", "lenient", "following"]
    )
    empty: dict[str, Any] = {"id": pl.String, "digest": pl.String}
    numbers = dict.fromkeys(("main", "strict", "lenient", "following"), pl.Float64)
    answers = pl.concat([pl.DataFrame(schema=empty | {"prediction": pl.String}), answers], how="diagonal_relaxed")
    judged = pl.concat([pl.DataFrame(schema=empty | numbers), judged], how="diagonal_relaxed")
    return (
        made.join(judged.rename({"digest": "scores"}), on="scores", maintain_order="left_right")
        .join(answers.rename({"digest": "predictions"}), on=["predictions", "id"], how="left", maintain_order="left")
        .with_columns(pl.col("main", "strict", "lenient") * 100, pl.col("prediction").fill_null(""))
        .rename({"main": "score", "prediction": "answer"})
    )


def _vocabularies(cells: polars.DataFrame, truths: polars.DataFrame) -> polars.DataFrame:
    """Every right answer of each task of each trial; see `with_errors`."""
    import polars as pl

    rights = truths.select("data", "split", pl.col("references").alias("answer")).explode("answer").drop_nulls()
    rights = rights.unique(maintain_order=True)
    texts = rights["answer"].unique().to_list()
    plain = pl.col("answer").replace_strict(
        texts, [normalise_answer(text) for text in texts], default=None, return_dtype=pl.String
    )
    rights = rights.with_columns(plain).unique(maintain_order=True)
    tasks = cells.select("trial", "task", pl.col("column").alias("place"), "data", "split").unique(maintain_order=True)
    return tasks.join(rights, on=["data", "split"]).select("trial", "task", "place", "answer")
