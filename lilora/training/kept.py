"""The bytes of the past that a stage learns by and no answer needs: samples, Fisher information, copies, embeddings.

A table's "stored" counts what answers; this is what a learner must have kept beside it to learn the stage's task. Data
of an earlier task that is read once more for a figure which could have been made before (EWC's Fisher information of
the last task) is not kept, and not counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lilora.adapters.adapters import Adapters
from lilora.adapters.preparation import Preparation
from lilora.adapters.state import State
from lilora.data.columns import LEARNED, read_columns
from lilora.methods import Method, Rehearsal
from lilora.training.batches import memory_rows


def kept_to_learn(
    method: Method,
    preparation: Preparation,
    adapters: Adapters,
    state: State | None,
    rehearsal: Rehearsal | None,
    inputs: Mapping[str, Path],
) -> int:
    """What the method keeps of itself (`Method.kept_to_learn`), earlier tasks' embeddings, and the rows it rehearses.

    Args:
        state: what the stage starts from, as the method has prepared it.
        inputs: the folders that the stage reads.
    """
    earlier = () if state is None else state.tasks
    embeddings = [found for task, found in preparation.embeddings.items() if task in earlier]
    total = method.kept_to_learn(adapters, state)
    total += sum(tensor.nbytes for found in embeddings for tensor in vars(found).values())
    if rehearsal is not None and rehearsal.share:
        for task in preparation.revisited:
            total += _bytes_of_rows(preparation, task, rehearsal.of_task(task), inputs[f"data-{task}"])
    return total


def _bytes_of_rows(preparation: Preparation, task: str, size: int, folder: Path) -> int:
    """Of the rows kept of a task: their texts in UTF-8, and their pictures as they are encoded, each once."""
    data = preparation.revisited[task].data
    rows = memory_rows(data.ids, preparation.seed, task, size)
    chosen = data.subset(rows)
    wanted = set(chosen.ids)
    total = sum(len(picture.read()) for picture in chosen.pictures)
    for row in read_columns(folder / "train.parquet", LEARNED).iter_rows(named=True):
        if row["id"] in wanted:
            texts = [row["instruction"], row["answer"], *(text for turn in row["turns"] or () for text in turn)]
            total += sum(len(text.encode()) for text in texts)
    return total
