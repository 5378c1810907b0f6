"""Files of finished steps as values: scores, items, inspections, records. What cannot be read is None."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import DamagedError
from orchestrator.storage.record import Record
from orchestrator.storage.store import Store


@dataclass(frozen=True)
class Items:
    """The main score of each test item of a cell, in percent.

    Attributes:
        names: the items' ids, in the order of the data.
        scores: with questions that have no row counted in (see `lilora.stages.scores`): their mean is the cell's score.
    """

    names: tuple[str, ...]
    scores: tuple[float, ...]


def read_scores(store: Store, digest: str) -> dict[str, Any] | None:
    """What a score step wrote; None where there is nothing that can be read."""
    return read_object(store, digest, "scores.json")


def read_inspection(store: Store, digest: str) -> dict[str, Any] | None:
    """What an inspection of a trial wrote; None where there is nothing that can be read."""
    return read_object(store, digest, "inspection.json")


def read_record(store: Store, digest: str) -> Record | None:
    """The artifact's record; None where there is none that can be read."""
    try:
        return store.record(digest)
    except DamagedError:
        return None


def read_object(store: Store, digest: str, name: str) -> dict[str, Any] | None:
    """The JSON object in a file of an artifact; None where there is nothing that can be read."""
    try:
        content = json.loads((store.fetch(digest) / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def read_items(store: Store, digest: str, scores: Mapping[str, Any]) -> Items | None:
    """Each item's main score of a score step; None where there is nothing that can be read.

    None, too, where the task's score is no mean over items (`lilora.scorers.Scorer.whole`): what other items would do
    to it is not known from theirs.
    """
    import polars

    if "item_mean" in scores:
        return None

    try:
        table = polars.read_parquet(store.fetch(digest) / "items.parquet", columns=["id", "main"], glob=False)
    except (OSError, polars.exceptions.PolarsError):
        return None
    share = len(table) / (len(table) + int(scores.get("absent", 0)))
    return Items(tuple(table["id"]), tuple((100 * share * table["main"]).to_list()))
