"""Benchmarks, tasks and streams: what is learned, in which order, asked in which words, scored by what.

These are values. Building a task's data is a step (`lilora.data.build`), named by `BuildConfig`: for data that are
drawn here the recipe, which is deterministic; for data that lie in files the SHA-256 of each file
(`lilora.data.location`). Where the files lie is no part of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, get_args

from lilora.benchmarks._instructions import INSTRUCTION_SETTINGS
from lilora.benchmarks._kinds import kind_named
from lilora.scorers import VERSIONS

#: How a picture is made square: its middle is cut out, or it is padded.
Framing = Literal["crop", "pad"]
#: A picture as LLaVA's loader takes it, or as a person sees it: see `lilora.data.pictures.upright`.
Look = Literal["as-llava", "upright"]
#: Numbers of rows: (first, last) of each run of them, in order.
Spans = tuple[tuple[int, int], ...]
#: A path below the benchmark's folder, in the ways in which it is published; the first that is there is used.
#: "{setting}" stands for the folder of the instruction setting.
Paths = tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """Where images or labels come from: a package, never a copy in this repository."""

    package: str
    version: str
    licence: str
    content: str


@dataclass(frozen=True)
class Files:
    """Where a task's rows and pictures lie, below the folder that the user names for the benchmark.

    Attributes:
        train, test: JSON lists in LLaVA's form, folders of `datasets.save_to_disk`, or Parquet files; () for none.
        images: the folder that rows' image paths are relative to.
        official: (role, *paths) of the data set's own files, for what the rows leave out
            (`lilora.data.readers.official`).
        template: what is asked after each question, where the file does not have it; "" where it has.
        columns: for tables, (ours, theirs) names of columns.
    """

    train: Paths = ()
    test: Paths = ()
    images: Paths = ("",)
    official: tuple[Paths, ...] = ()
    template: str = ""
    columns: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Task:
    """One vision-language task.

    Attributes:
        name: the published data set whose kind it is ("ScienceQA").
        kind: name of a `lilora.benchmarks._kinds.Kind`: templates, test of form behind MIF, lengths of texts.
        scorer: name of a file in `lilora/scorers`; its main score (0-100) is what AP averages.
        max_new_tokens: generation limit at test.
        train, validation, test: numbers of items; of data in files what their authors say, for planning alone, and
            `validation` is how many training rows are set aside where a study is scored on validation data.
        title: what it shows, for people.
        novelty: what is new in its test split.
        files: where the rows lie; None for data that are drawn here.
        test_image: how a picture becomes a square at test.
        templates: what a row's instruction may end with, by instruction setting; for `lilora check-data`.
    """

    name: str
    kind: str
    scorer: str
    max_new_tokens: int
    train: int
    validation: int
    test: int
    title: str = ""
    novelty: str = ""
    files: Files | None = None
    test_image: Framing = "crop"
    templates: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False, metadata={"identity": False})

    def __post_init__(self) -> None:
        kind_named(self.kind)


@dataclass(frozen=True)
class Benchmark:
    """A named set of tasks.

    Attributes:
        name: registry entry.
        revision: raised when the built data change.
        tasks: in the benchmark's own order.
        builder: "module:function", called as `builder(task, instructions, split) -> iterable of rows`, each of them
            {column: cell} (`lilora.data.columns.DRAWN`); "" for data in files. In the place of "image" may stand a
            function that returns the picture's bytes: it is called for the rows that a limit leaves.
        sources: packages that the images and labels come from.
        unseen: tasks beside the stream, named where they are wanted.
        settings: the instruction settings and the folder that each is published in; {} for those of `mini`.
        train_image: how a picture becomes a square in training.
        home: how to get the data, in a sentence or two.
        sizes: where the tasks' declared sizes are from.
        described: it is from a description beside its data (`lilora.data.readers.description`).
    """

    name: str
    revision: int
    tasks: tuple[Task, ...]
    builder: str
    sources: tuple[Source, ...] = ()
    task_sources: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unseen: tuple[Task, ...] = ()
    settings: Mapping[str, Paths] = field(default_factory=dict)
    train_image: Framing = "crop"
    home: str = field(default="", metadata={"identity": False})
    sizes: str = field(default="", metadata={"identity": False})
    described: bool = False

    def task(self, name: str) -> Task:
        """The task called `name`, of the stream or unseen.

        Raises:
            ValueError: there is none; the message lists the choices.
        """
        if name not in self._by_name:
            choices = ", ".join(task.name for task in (*self.tasks, *self.unseen))
            raise ValueError(f"benchmark '{self.name}' has no task '{name}'; it has: {choices}")
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, Task]:
        # The stream's where an unseen task has the same name.
        return {task.name: task for task in (*self.unseen[::-1], *self.tasks[::-1])}

    @property
    def setting_names(self) -> tuple[str, ...]:
        """The instruction settings to choose from; the first is the usual one."""
        return tuple(self.settings) or ("single", "five")

    def check_setting(self, instructions: str) -> None:
        """Refuse an instruction setting that this benchmark is not published in.

        Raises:
            ValueError: the message lists the choices.
        """
        if instructions not in self.setting_names:
            raise ValueError(
                f"benchmark '{self.name}' has no instruction setting '{instructions}'; "
                f"name one with Stream(instructions=...): {', '.join(self.setting_names)}"
            )


@dataclass(frozen=True)
class Stream:
    """Tasks in the order in which they are learned.

    Attributes:
        benchmark: name of a file in `lilora/benchmarks`.
        tasks: names, in order; empty for all tasks in the benchmark's own order.
        instructions: "single" (one template a task) or "five" (one of five, fixed per sample), as in CVIT;
            "original", "diverse" or "10type", as in CoIN.
        limit: at most so many rows of each split of each task, chosen alike over answers or question types; for a
            cheap first look, and marked in every table.
        limit_seed: of that choice.
        scores: which version of the scorers: "paper", what the published evaluators compute, or "standard"; scorers
            with one version, as mini's, are the same in both. No part of training or predicting: a change scores the
            predictions that are there again.
        pictures: of data in files, how a picture is decoded: "as-llava", as LLaVA's loader and so the published figures
            have it, or "upright": turned as its EXIF says, on white where it is transparent, 16 bits scaled to 8.
        missing: of data in files, rows that are left out: "refuse" for none, and a picture that is missing or broken
            ends the run before training; "drop" for those whose picture is; or the published ids of rows. Which rows
            are left out is part of the data's name, and said under every table.
        missing_share: of each file's rows, at most this share is dropped; more is refused.
        task_prompt: tell the task in words: each instruction begins with its name, in training and at test. Such a
            trial needs the task id, whatever its method (`lilora.benchmarks._instructions.told`).
    """

    benchmark: str = "mini"
    tasks: tuple[str, ...] = ()
    instructions: str = "single"
    limit: int | None = None
    limit_seed: int = 0
    scores: str = "paper"
    pictures: Look = "as-llava"
    missing: str | tuple[str, ...] = "refuse"
    missing_share: float = 0.05
    task_prompt: bool = False

    def __post_init__(self) -> None:
        if self.instructions not in INSTRUCTION_SETTINGS:
            raise ValueError(
                f"no instruction setting '{self.instructions}'; there are: {', '.join(INSTRUCTION_SETTINGS)}"
            )
        if self.scores not in VERSIONS:
            raise ValueError(f"no version {self.scores!r} of the scores; there are: {', '.join(VERSIONS)}")
        if len(set(self.tasks)) != len(self.tasks):
            raise ValueError(f"a stream learns each task once; this one repeats some: {', '.join(self.tasks)}")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"a stream's limit is {self.limit}; it is a number of rows, at least 1, or None for all")
        if self.pictures not in get_args(Look):
            raise ValueError(f"no way {self.pictures!r} to see pictures; there are: {', '.join(get_args(Look))}")
        if isinstance(self.missing, str) and self.missing not in ("refuse", "drop"):
            raise ValueError(f"a stream's missing rows are {self.missing!r}; take 'refuse', 'drop', or a tuple of ids")
        if not 0 < self.missing_share <= 1:
            raise ValueError(f"a stream's missing_share is {self.missing_share}; it is a share of rows, above 0 to 1")


@dataclass(frozen=True)
class BuildConfig:
    """Identity of one task's data artifact (config of `lilora.stages:build_task`).

    Attributes:
        files: (role, SHA-256) of each file that is read; () for data that are drawn here, and where the files are not
            there (such a step can be planned, not run).
        limit, limit_seed, task_prompt: see `Stream`.
        holdout: training rows that are set aside as the validation split; 0 for none, and then there is no such split.
        pictures: see `Stream`.
        left_out: ("train" or "test", which of the file's rows are left out); see `Stream.missing`.
    """

    benchmark: str
    task: str
    instructions: str
    revision: int
    files: tuple[tuple[str, str], ...] = ()
    limit: int | None = None
    limit_seed: int = 0
    holdout: int = 0
    pictures: Look = "as-llava"
    left_out: tuple[tuple[str, Spans], ...] = ()
    task_prompt: bool = False

    @property
    def num_left_out(self) -> dict[str, int]:
        """How many rows of each file are left out."""
        return {split: sum(last - first + 1 for first, last in rows) for split, rows in self.left_out}


@dataclass(frozen=True)
class AlignmentConfig:
    """Identity of a benchmark's stage-1 corpus (config of `lilora.stages:build_alignment`).

    Attributes:
        images: number of images over all kinds of picture.
        patches, pixels: of a side of the image, as the vision tower to be trained sees it.
    """

    benchmark: str
    revision: int
    images: int
    patches: int = 6
    pixels: int = 48
