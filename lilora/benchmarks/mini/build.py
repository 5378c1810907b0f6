"""Rows of the mini benchmark's tasks, one split at a time."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

from lilora.benchmarks import Task
from lilora.benchmarks._kinds import instruction
from lilora.benchmarks.mini.alignment import rows as alignment_rows
from lilora.benchmarks.mini.items import MAKERS, Item, Maker

__all__ = ["alignment_rows", "drawn_rows", "rows"]


def rows(task: Task, instructions: str, split: str) -> Iterator[dict[str, Any]]:
    """The rows of `task`'s `split` as `lilora.data.build` writes them.

    The picture and the question of an item are the same under every instruction setting; only the template differs.
    """

    def words(item: Item, index: int) -> str:
        return instruction(item.question, task.kind, instructions, index)

    return drawn_rows(task, split, MAKERS[task.name], words)


def drawn_rows(task: Task, split: str, maker: Maker, words: Callable[[Item, int], str]) -> Iterator[dict[str, Any]]:
    """One row after another of a task that is drawn here; `words` makes the instruction of an item and its number.

    The picture is a function that draws it: see `Benchmark.builder`.
    """
    count = {"train": task.train, "validation": task.validation, "test": task.test}[split]
    for index in range(count):
        item = maker(random.Random(f"lilora mini {task.name} {split} {index}"), split, index)
        yield {
            "id": f"{task.name}-{split}-{index}",
            "image": item.picture.png,
            "instruction": words(item, index),
            "answer": item.answer,
            "references": list(item.references),
            "type": item.type,
        }
