"""Rows of mini_coin's tasks, one split at a time."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from lilora.benchmarks import Task
from lilora.benchmarks._instructions import COIN
from lilora.benchmarks.mini.build import drawn_rows
from lilora.benchmarks.mini.items import MAKERS as MINI_MAKERS
from lilora.benchmarks.mini.items import Item
from lilora.benchmarks.mini_coin.items import MAKERS

#: CoIN asks it of ImageNet's rows; in CVIT, and so in `mini`, it is a part of the template.
QUESTIONS = {"ImageNet": "What is the object in the image?"}


def templates(task: str, setting: str) -> tuple[str, ...]:
    """What an instruction of `task` may end with in a setting of CoIN (ProgLoRA, Table 14).

    The printed table's 10Type column of OCR-VQA holds ScienceQA's option templates, which no answer to an open question
    can follow; an error of the paper. TextVQA's, for words and phrases, stand in its place.
    """
    found = COIN[task].get(setting)
    return COIN["TextVQA"][setting] if found is None else found


def rows(task: Task, instructions: str, split: str) -> Iterator[dict[str, Any]]:
    """The rows of `task`'s `split` as `lilora.data.build` writes them.

    The picture and the question of an item are the same under every instruction setting; only the template differs.
    Which of several templates a row carries is drawn by its id alone, so it tells nothing of the question's type.
    """
    choices = templates(task.name, instructions)

    def words(item: Item, index: int) -> str:
        question = item.question or QUESTIONS[task.name]
        template = random.Random(f"lilora template {task.name} {split} {index}").choice(choices)
        return f"{question}\n{template.rstrip('.')}."

    return drawn_rows(task, split, MAKERS.get(task.name) or MINI_MAKERS[task.name], words)
