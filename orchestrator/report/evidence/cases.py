"""Cases of a page: a few test items of each task, their pictures made small, and what each row answered to them.

The choice hangs on the answers alone: of each task's items those that most rows forgot, gained, kept or never had
come first, in turns, so that each outcome is to be seen where there is one.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from orchestrator.planning.lowering import TrialPlan
from orchestrator.results.answers.cases import FORGOTTEN, GAINED, KEPT, LABELS, NEVER, cases, read_pictures
from orchestrator.results.answers.items import RIGHT_FROM
from orchestrator.results.table import TableRow
from orchestrator.storage.store import Store

if TYPE_CHECKING:
    import polars

#: Items of a page, at most, over all tasks: with pictures of `SIDE` pixels some 100 KiB.
MOST_CASES = 36
#: Answers that are read to choose them, at most; of a study that has more the first rows alone are shown.
MOST_ANSWERS = 300_000
#: Outcomes in the order in which items of each are taken.
IN_TURNS = (FORGOTTEN, GAINED, KEPT, NEVER)
#: Pixels of a picture's longer side.
SIDE = 112

#: (task, digest of its data, id) of an item.
Key = tuple[str, str, str]


@dataclass(frozen=True)
class Answered:
    """A row's answers to an item, by its first seed.

    Attributes:
        answers: (name of the stage, answer, whether it is right, digest of the predictions) of each stage.
        label: "forgotten", "kept", "gained", "never", or "" where a stage is missing or nothing was learned.
    """

    name: str
    seed: int
    answers: tuple[tuple[str, str, bool, str], ...]
    label: str


@dataclass(frozen=True)
class Case:
    """A test item.

    Attributes:
        picture: a data URI; "" where there is none that can be read on this machine.
        path: of a picture that lies in an image folder; "" for others.
        data: digest of the task's data.
    """

    task: str
    id: str
    question: str
    references: tuple[str, ...]
    picture: str
    path: str
    data: str
    rows: tuple[Answered, ...]


def read_cases(rows: Sequence[TableRow], store: Store) -> tuple[tuple[Case, ...], int]:
    """The cases of a study's table, in the order of tasks and data, and the number of items they were chosen of."""
    plans = list(_plans(rows))
    found = cases(plans, store) if plans else None
    if found is None or found.is_empty():
        return (), 0
    chosen = _chosen(found)
    by_item: dict[Key, list[dict[str, Any]]] = {}
    for line in found.filter(_any_of(chosen)).iter_rows(named=True):
        by_item.setdefault((line["task"], line["data"], line["id"]), []).append(line)
    pictures = _pictures([lines[0] for lines in by_item.values()], store)
    total = found.select("task", "data", "id").n_unique()
    return tuple(_case(key, lines, pictures.get(key, "")) for key, lines in by_item.items()), total


def _plans(rows: Sequence[TableRow]) -> Iterator[TrialPlan]:
    """The first trial of each row, until they have `MOST_ANSWERS`."""
    num_answers = 0
    for row in rows:
        result = row.results[0]
        num_answers += sum(int(scores.get("count", 0)) for scores in result.scores.values())
        if num_answers > MOST_ANSWERS:
            return
        yield result.plan


def _chosen(found: polars.DataFrame) -> list[Key]:
    """(task, data, id) of the items that are shown."""
    import polars as pl

    keys = ["task", "data", "id"]
    counts = [(pl.col("label") == label).sum().alias(label) for label in LABELS]
    items = found.group_by(keys, maintain_order=True).agg(*counts, pl.col("place").first())
    chosen: list[Key] = []
    tasks = items["task"].unique(maintain_order=True).to_list()[:MOST_CASES]
    for task in tasks:
        own = items.filter(pl.col("task") == task)
        ranked = {
            label: own.filter(pl.col(label) > 0).sort(label, "place", descending=[True, False]).select(keys).rows()
            for label in IN_TURNS
        }
        # What has no outcome, as before any stage is learned, comes last.
        chosen += _in_turns(list(ranked.values()), own.select(keys).rows(), MOST_CASES // len(tasks))
    return chosen


def _in_turns(queues: Sequence[Sequence[Key]], rest: Sequence[Key], most: int) -> list[Key]:
    """The first of each queue, then the second, ..., then the rest: each item once, and `most` at most."""
    turns = [item for turn in zip_longest(*queues) for item in turn if item is not None]
    return list(dict.fromkeys([*turns, *rest]))[:most]


def _any_of(chosen: Sequence[Key]) -> polars.Expr:
    import polars as pl

    wanted = pl.Series([{"task": task, "data": data, "id": name} for task, data, name in chosen])
    return pl.struct("task", "data", "id").is_in(wanted.implode())


def _pictures(lines: Sequence[Mapping[str, Any]], store: Store) -> dict[Key, str]:
    """The pictures of these items as data URIs, each task's file read once."""
    files: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for line in lines:
        if line["split"] is not None:
            files.setdefault((line["data"], line["split"]), []).append(line)
    found = {}
    for (data, split), own in files.items():
        encoded = read_pictures(store, data, split, [line["place"] for line in own])
        for line, content in zip(own, encoded, strict=True):
            found[line["task"], line["data"], line["id"]] = "" if content is None else small_picture(content)
    return found


def small_picture(encoded: bytes) -> str:
    """The picture, at most `SIDE` pixels wide and high, as a data URI; "" for what is no picture."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(encoded)) as opened:
            picture = opened.convert("RGBA")
    except (OSError, ValueError):
        return ""
    picture.thumbnail((SIDE, SIDE))
    paper = Image.new("RGBA", picture.size, "white")
    file = io.BytesIO()
    Image.alpha_composite(paper, picture).convert("RGB").save(file, "WEBP", quality=75)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def _case(key: Key, lines: Sequence[Mapping[str, Any]], picture: str) -> Case:
    task, data, name = key
    first = lines[0]
    return Case(
        task, name, first["question"] or "", tuple(first["references"] or ()), picture, first["picture"] or "", data,
        tuple(_answered(line) for line in lines),
    )  # fmt: skip


def _answered(line: Mapping[str, Any]) -> Answered:
    told = zip(line["after"], line["answers"], line["scores"], line["predictions"], strict=True)
    answers = tuple((after, answer or "", score >= RIGHT_FROM, digest) for after, answer, score, digest in told)
    return Answered(line["group"], line["seed"], answers, line["label"] or "")
