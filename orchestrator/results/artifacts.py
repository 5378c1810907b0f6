"""Files of finished steps as values: scores, items, inspections, records. What cannot be read is None."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import DamagedError
from orchestrator.results.answers.tables import read_tables
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


def read_items(store: Store, wanted: Mapping[str, Mapping[str, Any]]) -> dict[str, Items]:
    """Each item's main score of score steps (digest -> what `scores.json` says), all files read in one go.

    Nothing where there is nothing that can be read, and where the task's score is no mean over items
    (`lilora.scorers.Scorer.whole`): what other items would do to it is not known from theirs.
    """
    asked = [digest for digest, scores in wanted.items() if "item_mean" not in scores]
    table = read_tables(store, [(digest, "items.parquet") for digest in asked], ["id", "main"])
    found: dict[str, Items] = {}
    # Cells of one task have the same ids: they are held once.
    names: dict[tuple[str, ...], tuple[str, ...]] = {}
    for part in table.partition_by("file", maintain_order=True):
        digest, ids = asked[part["file"][0]], tuple(part["id"])
        if not part["main"].null_count():
            share = len(part) / (len(part) + int(wanted[digest].get("absent", 0)))
            found[digest] = Items(names.setdefault(ids, ids), tuple((100 * share * part["main"]).to_list()))
    return found
