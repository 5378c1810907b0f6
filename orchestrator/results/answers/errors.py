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
        answers: a row an answer, with `stream` (a number), `task`, `answer`, `numbers` (among the right answers),
            `score`, `lenient` (in percent) and `following` (0 or 1); `numbers` and `stream` are left out of what is
            returned.
        vocabularies: `stream`, `task`, `place` in the order learned, `answer` as `normalise_answer` has it: each right
            answer of each task of each stream.
        right_from: an answer is right from this score on, in percent.

    Returns:
        `error_task` is whose answer an "other task's answer" is; of several tasks the one learned last.
    """
    import polars as pl

    found = answers.with_columns((pl.col("score") >= right_from).alias("right")).with_row_index("_answer")
    wrong = found.filter(~pl.col("right")).select(
        "_answer", "stream", "task", "answer", "numbers", "lenient", "following"
    )
    # Answers repeat: the rules on texts, which are Python's, see each text once.
    texts = wrong["answer"].unique().drop_nulls().to_list()
    read = pl.DataFrame(
        [(text, normalise_answer(text), number_in(text)) for text in texts],
        schema={"answer": pl.String, "normal": pl.String, "number": pl.Int64},
        orient="row",
    )
    wrong = wrong.join(read, on="answer", how="left")
    wrong = wrong.join(_whose(wrong, vocabularies), on=["stream", "task", "normal"], how="left")
    one_off = (pl.col("number") - 1).is_in(pl.col("numbers")) | (pl.col("number") + 1).is_in(pl.col("numbers"))
    kinds = (
        pl.when(pl.col("lenient") >= right_from).then(pl.lit(FORMAT))
        .when(one_off.fill_null(False)).then(pl.lit(OFF_BY_ONE))
        .when(pl.col("error_task").is_not_null()).then(pl.lit(OTHER_TASK))
        .when(pl.col("following") < 1).then(pl.lit(FORMAT))
        .otherwise(pl.lit(OTHER))
    )  # fmt: skip
    wrong = wrong.select("_answer", kinds.cast(pl.Enum(KINDS)).alias("error"), "error_task")
    wrong = wrong.with_columns(pl.when(pl.col("error") == OTHER_TASK).then("error_task").alias("error_task"))
    found = found.drop("stream", "numbers").join(wrong, on="_answer", how="left", maintain_order="left")
    return found.drop("_answer")


def _whose(wrong: polars.DataFrame, vocabularies: polars.DataFrame) -> polars.DataFrame:
    """Of each wrong answer that is a right one of another task of the stream and of none of its own, that task."""
    import polars as pl

    asked = wrong.select("stream", "task", "normal").unique()
    met = asked.join(vocabularies, left_on=["stream", "normal"], right_on=["stream", "answer"], suffix="_of")
    own = pl.col("task") == pl.col("task_of")
    whose = met.group_by("stream", "task", "normal").agg(
        own.any().alias("own"), pl.col("task_of").sort_by("place").last().alias("error_task")
    )
    return whose.filter(~pl.col("own")).drop("own")
