"""Files of finished steps as values: scores, items, inspections, records. What cannot be read is None."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.errors import DamagedError
from orchestrator.results.answers.tables import read_tables
from orchestrator.storage.record import Record
from orchestrator.storage.store import Store

if TYPE_CHECKING:
    import polars


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
        content = json.loads(store.read(digest, name))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def read_items(store: Store, wanted: Mapping[str, Mapping[str, Any]]) -> dict[str, Items]:
    """Each item's main score of score steps (digest -> what `scores.json` says), all files read in one go.

    Nothing where there is nothing that can be read, and where the task's score is no mean over items
    (`lilora.scorers.Scorer.whole`): what other items would do to it is not known from theirs.
    """
    asked = [digest for digest, scores in wanted.items() if "item_mean" not in scores]
    table = read_tables(store, [(digest, "items.parquet") for digest in asked], ["id", "main"])
    found: dict[str, Items] = {}
    # Cells of one task have the same ids: they are held once, and told by a look at the column, not text by text.
    known: dict[tuple[int, str], list[tuple[polars.Series, tuple[str, ...]]]] = {}
    runs = table["file"].rle().struct.unnest()
    nulls = set(table.filter(table["main"].is_null())["file"].to_list())
    start = 0
    for length, file in runs.rows():
        ids, scores = table["id"].slice(start, length), table["main"].slice(start, length)
        start += length
        if file in nulls:
            continue
        digest, alike = asked[file], known.setdefault((length, ids[0]), [])
        names = next((held for other, held in alike if other.equals(ids)), None)
        if names is None:
            names = tuple(ids.to_list())
            alike.append((ids, names))
        share = length / (length + int(wanted[digest].get("absent", 0)))
        found[digest] = Items(names, tuple((100 * share * scores).to_list()))
    return found
