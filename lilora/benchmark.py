"""Benchmarks, tasks and streams: what is learned, in which order, asked in which words, scored by what.

These are values. Building a task's data is a step (`lilora.building`), named by `BuildConfig`: the recipe, not the
bytes, and the recipe is deterministic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from lilora.templates import INSTRUCTION_SETTINGS

Kind = Literal["option", "vqa", "caption", "classification"]


@dataclass(frozen=True)
class Source:
    """Where images or labels come from: a package, never a copy in this repository."""

    package: str
    version: str
    licence: str
    content: str


@dataclass(frozen=True)
class Task:
    """One vision-language task.

    Attributes:
        name: the published data set whose kind it is ("ScienceQA").
        kind: decides the instruction template and the instruction-following predicate of MIF.
        scorer: name of a file in `lilora/scorers`; its main score (0-100) is what AP averages.
        max_new_tokens: generation limit at test.
        train, validation, test: numbers of items.
        title: what it shows, for people.
        novelty: what is new in its test split.
    """

    name: str
    kind: Kind
    scorer: str
    max_new_tokens: int
    train: int
    validation: int
    test: int
    title: str = ""
    novelty: str = ""


@dataclass(frozen=True)
class Benchmark:
    """A named set of tasks.

    Attributes:
        name: registry entry.
        revision: raised when the built data change.
        tasks: in the benchmark's own order.
        builder: "module:function", called as `builder(task, instructions, split) -> iterable of rows`.
        sources: packages that the images and labels come from.
    """

    name: str
    revision: int
    tasks: tuple[Task, ...]
    builder: str
    sources: tuple[Source, ...] = ()
    task_sources: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def task(self, name: str) -> Task:
        """The task called `name`.

        Raises:
            ValueError: there is none; the message lists the choices.
        """
        for task in self.tasks:
            if task.name == name:
                return task
        choices = ", ".join(task.name for task in self.tasks)
        raise ValueError(f"benchmark '{self.name}' has no task '{name}'; it has: {choices}")


@dataclass(frozen=True)
class Stream:
    """Tasks in the order in which they are learned.

    Attributes:
        benchmark: name of a file in `lilora/benchmarks`.
        tasks: names, in order; empty for all tasks in the benchmark's own order.
        instructions: "single" (one template a task) or "five" (one of five, fixed per sample), as in CVIT.
    """

    benchmark: str = "mini"
    tasks: tuple[str, ...] = ()
    instructions: str = "single"

    def __post_init__(self) -> None:
        if self.instructions not in INSTRUCTION_SETTINGS:
            raise ValueError(
                f"no instruction setting '{self.instructions}'; there are: {', '.join(INSTRUCTION_SETTINGS)}"
            )
        if len(set(self.tasks)) != len(self.tasks):
            raise ValueError(f"a stream learns each task once; this one repeats some: {', '.join(self.tasks)}")


@dataclass(frozen=True)
class BuildConfig:
    """Identity of one task's data artifact (config of `lilora.stages:build_task`)."""

    benchmark: str
    task: str
    instructions: str
    revision: int


@dataclass(frozen=True)
class AlignmentConfig:
    """Identity of a benchmark's stage-1 corpus (config of `lilora.stages:build_alignment`).

    Attributes:
        images: number of images over all kinds of picture.
    """

    benchmark: str
    revision: int
    images: int
