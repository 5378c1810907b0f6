"""Scoring as a step: predictions and right answers in, scores of the task and of each item out.

Predicting and scoring are separate steps, so a mended scorer generates nothing again. The image column is never read.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from lilora.benchmarks._kinds import kind_named
from lilora.data.columns import JUDGED, read_columns
from lilora.data.location import SOURCE
from lilora.scorers import ItemScore, Scorer, Truth, version_of

#: Raised when what `score` does around the scorers changes its results: then every task is scored again.
VERSION = 1


class ScoreSettings(Protocol):
    """What `score` reads of its config (`lilora.stages.configs.ScoreConfig`)."""

    @property
    def scorer(self) -> str:
        """Name of an entry in `lilora/scorers`."""

    @property
    def kind(self) -> str:
        """Kind of the task: what form an output should have."""

    @property
    def split(self) -> str:
        """Which file of the data folder has the right answers."""

    @property
    def scores(self) -> str:
        """Which version of a scorer that has two: "paper" or "standard"; "" for one that has one."""


def step_version(scorer: Scorer, kind: str) -> int:
    """The version of a step that scores with this scorer: it rises with the scorer's, its test of form's and ours.

    So a mended scorer scores its own tasks again, from the predictions that are there, and no others.
    """
    return scorer.version + kind_named(kind).form_of(scorer.form).version + VERSION - 2


def _percent(values: Iterable[float]) -> float:
    listed = list(values)
    return 100 * math.fsum(listed) / len(listed) if listed else 0.0


def score_items(
    scorer: Scorer, kind: str, predictions: Sequence[str], truths: Sequence[Truth]
) -> list[tuple[ItemScore, bool]]:
    """(scores, follows the instruction) of each item."""
    asked = kind_named(kind)
    followed = [
        asked.follows(prediction, truth.references, scorer.form)
        for prediction, truth in zip(predictions, truths, strict=True)
    ]
    return list(zip(scorer.score(predictions, truths), followed, strict=True))


def aggregate(
    scorer: Scorer,
    items: Sequence[tuple[ItemScore, bool]],
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    types: Sequence[str],
) -> dict[str, Any]:
    """The task's scores: percentages of the items, figures of the whole, and the main score by question type.

    `by_type` is empty where no item has a type. Its scores are means over items, as is `item_mean`, which is there
    where the main score is none (`Scorer.whole`).
    """
    by_type: dict[str, list[float]] = defaultdict(list)
    for (item, _), kind_of_question in zip(items, types, strict=True):
        by_type[kind_of_question].append(item.main)
    if set(by_type) == {""}:
        by_type.clear()
    means = {name: _percent(getattr(item, name) for item, _ in items) for name in ("main", "strict", "lenient")}
    if scorer.whole is not None:
        scores = scorer.whole(predictions, references)
        means = {name: 100 * getattr(scores, name) for name in means} | {"item_mean": means["main"]}
    return {
        **means,
        "following": _percent(float(following) for _, following in items),
        "extra": scorer.extra(predictions, references),
        "by_type": {name: {"main": _percent(by_type[name]), "count": len(by_type[name])} for name in sorted(by_type)},
        "count": len(items),
    }


def score(config: ScoreSettings, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """Score `predictions/predictions.parquet` against `data/<split>.parquet`; write `scores.json` and `items.parquet`.

    Returns:
        the scores as in `scores.json`, as the record's summary.

    Raises:
        ValueError: unknown scorer, version or kind, or the two files do not hold the same items.
    """
    import polars

    from lilora.core.registry import load

    scorer, _ = version_of(load("scorers", config.scorer), config.scores)
    truth_path = inputs["data"] / f"{config.split}.parquet"
    truth = read_columns(truth_path, JUDGED)
    answers = inputs["predictions"] / "predictions.parquet"
    predicted = polars.read_parquet(answers, columns=["id", "prediction"], glob=False)
    given = dict(zip(predicted["id"].to_list(), predicted["prediction"].to_list(), strict=True))
    ids = truth["id"].to_list()
    _check_same_items(ids, given, predicted.height, truth_path)

    predictions = [given[identity] or "" for identity in ids]
    truths = [_truth(row) for row in truth.iter_rows(named=True)]
    references = [right.references for right in truths]
    items = score_items(scorer, config.kind, predictions, truths)
    result = aggregate(scorer, items, predictions, references, [kind or "" for kind in truth["type"].to_list()])
    if scorer.counts_absent and config.split == "test":
        _count_absent(result, inputs["data"] / SOURCE)

    (out / "scores.json").write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")
    polars.DataFrame(
        {
            "id": ids,
            "main": [item.main for item, _ in items],
            "strict": [item.strict for item, _ in items],
            "lenient": [item.lenient for item, _ in items],
            "following": [float(following) for _, following in items],
        }
    ).write_parquet(out / "items.parquet")
    return result


def _count_absent(result: dict[str, Any], source: Path) -> None:
    """Let questions of the official test split that have no row count as wrong, as the published evaluator does."""
    absent = json.loads(source.read_text()).get("official_test_rows_absent", 0) if source.exists() else 0
    if absent:
        share = result["count"] / (result["count"] + absent)
        result |= {name: share * result[name] for name in ("main", "strict", "lenient")} | {"absent": absent}


def _truth(row: Mapping[str, Any]) -> Truth:
    return Truth(
        references=tuple(row["references"] or (row["answer"],)),
        raters=tuple(row["raters"] or ()),
        options=tuple(row["options"] or ()),
        boxes=tuple(tuple(box) for box in row["boxes"] or ()),
        size=tuple(row["size"] or ()),
    )


def _check_same_items(ids: Sequence[str], given: Mapping[str, str], num_predicted: int, truth_path: Path) -> None:
    if len(given) != num_predicted or len(set(ids)) != len(ids):
        raise ValueError("an id is there twice among the predictions or in the data; ids must be unique within a split")
    if odd := sorted(set(ids) ^ set(given)):
        raise ValueError(
            f"{len(odd)} items are only in one of the predictions and {truth_path} (first: {odd[0]!r}); "
            "predict the same split that is scored"
        )
