"""Kinds of error: in what a wrong answer is wrong, as an expression over a frame of answers.

The first that fits, in this order:

1. "format": the right answer is in there, and only the form is not the one asked for (the lenient score has it).
2. "off by one": answer and a right answer are whole numbers, in digits or words, one apart.
3. "other task's answer": it is a right answer of another task of the stream, and of none of this task's items.
4. "format": it has not the form that the instruction asks for, and is nobody's answer.
5. "other answer": of the form asked for, and wrong.

No paper names such kinds. The order is a choice: what counts as a slip of the form or by one is not put down to another
task, even where that one has such an answer too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from lilora.measures.vqa import normalise_vqa
from lilora.measures.words import normalise_answer

if TYPE_CHECKING:
    import polars

FORMAT, OFF_BY_ONE, OTHER_TASK, OTHER = "format", "off by one", "other task's answer", "other answer"
KINDS = (FORMAT, OFF_BY_ONE, OTHER_TASK, OTHER)


def number_in(text: str) -> int | None:
    """The whole number that an answer is, in digits or as a word up to ten ("Two." is 2); None where it is none."""
    plain = normalise_vqa(text).removesuffix(".")
    return int(plain) if re.fullmatch(r"\d{1,9}", plain, re.ASCII) else None


def with_errors(answers: polars.DataFrame, vocabularies: polars.DataFrame, right_from: float) -> polars.DataFrame:
    """`answers` with the columns `right`, `error` (one of `KINDS`; null where right) and `error_task`.

    Args:
        answers: a row an answer, with `trial` (a number), `task`, `answer`, `references`, `score`, `lenient` (in
            percent) and `following` (0 or 1).
        vocabularies: `trial`, `task`, `place` in the order learned, `answer` as `normalise_answer` has it: each right
            answer of each task of each trial.
        right_from: an answer is right from this score on, in percent.

    Returns:
        `error_task` is whose answer an "other task's answer" is; of several tasks the one learned last.
    """
    import polars as pl

    # Answers repeat: the rules on texts, which are Python's, see each text once.
    texts = answers["answer"].unique().drop_nulls().to_list()
    rights = answers["references"].explode().unique().drop_nulls().to_list()
    found = answers.with_columns(
        _mapped("answer", texts, (normalise_answer(text) for text in texts), pl.String).alias("_normal"),
        _mapped("answer", texts, (number_in(text) for text in texts), pl.Int64).alias("_number"),
        pl.col("references")
        .list.eval(_mapped(None, rights, (number_in(text) for text in rights), pl.Int64))
        .alias("_numbers"),
        (pl.col("score") >= right_from).alias("right"),
    )
    wrong = found.filter(~pl.col("right")).select("trial", "task", "_normal").unique()
    met = wrong.join(vocabularies, left_on=["trial", "_normal"], right_on=["trial", "answer"], suffix="_of")
    own = pl.col("task") == pl.col("task_of")
    whose = (
        met.group_by("trial", "task", "_normal")
        .agg(own.any().alias("_own"), pl.col("task_of").sort_by("place").last().alias("error_task"))
        .filter(~pl.col("_own"))
        .drop("_own")
    )
    found = found.join(whose, on=["trial", "task", "_normal"], how="left", maintain_order="left")
    one_off = ((pl.col("_number") - 1).is_in(pl.col("_numbers"))) | ((pl.col("_number") + 1).is_in(pl.col("_numbers")))
    kinds = (
        pl.when("right").then(None)
        .when(pl.col("lenient") >= right_from).then(pl.lit(FORMAT))
        .when(one_off.fill_null(False)).then(pl.lit(OFF_BY_ONE))
        .when(pl.col("error_task").is_not_null()).then(pl.lit(OTHER_TASK))
        .when(pl.col("following") < 1).then(pl.lit(FORMAT))
        .otherwise(pl.lit(OTHER))
    )  # fmt: skip
    found = found.with_columns(kinds.cast(pl.Enum(KINDS)).alias("error")).drop("_normal", "_number", "_numbers")
    return found.with_columns(pl.when(pl.col("error") == OTHER_TASK).then("error_task").alias("error_task"))


def _mapped(
    column: str | None, texts: Iterable[str], values: Iterable[object], dtype: polars.DataTypeExpr | type
) -> polars.Expr:
    """The column (or the element of a list) with each of `texts` replaced."""
    import polars as pl

    source = pl.element() if column is None else pl.col(column)
    return source.replace_strict(list(texts), list(values), default=None, return_dtype=dtype)
