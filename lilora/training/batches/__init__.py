"""The rows that each step of a stage sees: the new ones in their order, and those of earlier tasks that are kept.

Every choice hangs on SHA-256 of (seed, task, id): the same on every machine, whatever the order of the rows in a file.
"""

from __future__ import annotations

import hashlib

from lilora.adapters.preparation import Preparation, TaskRows
from lilora.data.sampling import chosen_rows
from lilora.methods import Rehearsal
from lilora.model.features import Features


def rehearsing(preparation: Preparation, rehearsal: Rehearsal | None) -> tuple[TaskRows, int]:
    """The rows to learn with the memory's rows behind them, and the number of rows to learn.

    The memory of a task is its `Rehearsal.of_task` training rows with the least SHA-256 of (seed, task, "memory", id):
    whoever asks for it at whatever stage finds the same.
    """
    current = preparation.current
    sizes = {task: 0 if rehearsal is None else rehearsal.of_task(task) for task in preparation.revisited}
    if not any(sizes.values()):
        return current, len(current.data)
    chosen = [
        rows.data.subset(memory_rows(rows.data.ids, preparation.seed, task, sizes[task]))
        for task, rows in preparation.revisited.items()
        if sizes[task]
    ]
    processor = current.features.processor
    features = [Features(preparation.model, processor, data) for data in chosen]
    data = current.data.joined(chosen)
    joined = Features.joined(preparation.model, processor, data, [current.features, *features])
    return TaskRows(data, joined), len(current.data)


def memory_rows(ids: list[str], seed: int, task: str, size: int) -> list[int]:
    """Which rows of a task are kept, in their order."""
    return sorted(chosen_rows(ids, f"{seed}/{task}/memory", size))


class BatchOrder:
    """Which rows each step sees: an endless sequence of permutations, one an epoch, cut into effective batches.

    A permutation sorts the rows by the SHA-256 of (seed, task, epoch, id): the same on every machine, and whatever the
    order of the rows in their file.
    """

    def __init__(self, ids: list[str], seed: int, task: str, batch_size: int) -> None:
        self.ids, self.name, self.batch_size = ids, f"{seed}/{task}", batch_size
        self._epochs: dict[int, list[int]] = {}

    def batch(self, step: int) -> list[int]:
        """Rows of the effective batch of `step`."""
        count = len(self.ids)
        places = range(step * self.batch_size, (step + 1) * self.batch_size)
        return [self._epoch(place // count)[place % count] for place in places]

    def _epoch(self, epoch: int) -> list[int]:
        if epoch not in self._epochs:
            keys = [hashlib.sha256(f"{self.name}/{epoch}/{name}".encode()).digest() for name in self.ids]
            # A batch may straddle two epochs; older ones are not asked for again.
            self._epochs = {old: rows for old, rows in self._epochs.items() if old >= epoch - 1}
            self._epochs[epoch] = sorted(range(len(keys)), key=keys.__getitem__)
        return self._epochs[epoch]


def step_seed(seed: int, task: str, step: int, rank: int) -> int:
    """Seed of torch's random numbers (dropout) in one step on one worker."""
    digest = hashlib.sha256(f"{seed}/{task}/{step}/{rank}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
