"""A trial: one method on one stream of tasks, as a value, and bound to what its names stand for.

Nothing here runs, reads results or imports torch. A trial's resources say how it runs, never what it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar, Literal, get_args

from lilora.backbones import Backbone
from lilora.benchmarks import Benchmark, Stream
from lilora.core import registry
from lilora.core.identity import digest_of
from lilora.data.location import find_benchmark
from lilora.methods import Method
from lilora.scorers import Scorer, TwoScorers
from lilora.training import Training
from orchestrator.steps.step import Resources
from orchestrator.study.naming import method_name

#: Fields of a stream that a trial's parameters say in words of their own.
IN_WORDS = ("benchmark", "tasks", "instructions", "limit", "limit_seed", "scores", "task_prompt")
AnswerDtype = Literal["", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Trial:
    """One run through a stream of tasks.

    Attributes:
        method: how the model adapts; its fields are the hyper-parameters.
        backbone: the model that every task adapts.
        stream: the tasks and their order.
        training: optimiser, rate, epochs: the same for every stage.
        seed: of initial values, sampling order and dropout.
        split: what is scored: "test", or "validation" to choose hyper-parameters.
        scored: after which stages: "each", or only the "last", where a figure of that row is all that is asked for; or
            "all": after each stage the tasks that come later too, after the last one the benchmark's unseen tasks, and
            all of them by the backbone as it is. A method that is told the task has no part for one that it has not
            learned: of such tasks its cells stay empty. A method that trains nothing is the backbone as it is: it is
            scored on the stream's tasks, and on no other.
        transfer: whether each task is also learned alone, from the backbone, by the same method, which FWT is measured
            against (ProgLoRA, 5.3). These are first stages, which the store shares with every trial that has them.
        answer_dtype: of the backbone while it answers; "": that of training. Published evaluators of LLaVA use float16,
            and bfloat16 keeps too few bits of a small update that is merged into its weights. No part of a stage.
        resources: what a training step may use; not part of the trial's identity.
    """

    #: The name in digests: where the class lay when people's stores were made.
    identity: ClassVar[str] = "orchestrator.study.Trial"

    method: Method
    backbone: Backbone
    stream: Stream = Stream()
    training: Training = Training()
    seed: int = 0
    split: str = "test"
    scored: Literal["each", "last", "all"] = field(default="each", metadata={"identity": False})
    transfer: bool = field(default=False, metadata={"identity": False})
    answer_dtype: AnswerDtype = ""
    resources: Resources = field(default=Resources(), compare=False, metadata={"identity": False})

    def __post_init__(self) -> None:
        if self.answer_dtype not in (known := get_args(AnswerDtype)):
            raise ValueError(f"no answer_dtype '{self.answer_dtype}'; there are: {', '.join(known[1:])}")
        # One spelling for one meaning, since fields are identity.
        if self.answer_dtype == self.training.dtype:
            object.__setattr__(self, "answer_dtype", "")

    @property
    def needs_task_id(self) -> bool:
        """Whether it is told at test which task an item is from: to its method, or in the words of the instruction."""
        return self.method.needs_task_id or self.stream.task_prompt

    @property
    def scores_unlearned(self) -> bool:
        """Whether tasks are evaluated that it has not learned."""
        return self.scored == "all" and not self.method.needs_task_id


@dataclass(frozen=True)
class BoundTrial:
    """A trial with what its names stand for, looked up once; `bind` makes it.

    Attributes:
        trial: what was asked for.
        benchmark: of its stream.
        tasks: names of its tasks, in the order learned.
        unseen: names of the benchmark's tasks beside the stream that it is scored on.
        scorers: of each of these tasks, by the task's name.
        scores: which version of the scorers it uses: "paper" or "standard"; "" where each of its tasks' has but one.
        parameters: what the trial is, as flat names and plain values: the method's fields as `method.NAME`, and so on.
    """

    trial: Trial
    benchmark: Benchmark
    tasks: tuple[str, ...]
    scorers: Mapping[str, Scorer | TwoScorers]
    scores: str
    parameters: Mapping[str, Any]
    unseen: tuple[str, ...] = ()


def load_benchmark(name: str) -> Benchmark:
    """The benchmark of this name; looked up once where it is one of a package's.

    Raises:
        ValueError: there is none; the message lists the choices.
    """
    return _registered(name) if name in _names() else find_benchmark(name)


@cache
def _registered(name: str) -> Benchmark:
    benchmark: Benchmark = registry.load("benchmarks", name)
    return benchmark


@cache
def _names() -> frozenset[str]:
    return frozenset(registry.names("benchmarks"))


@cache
def load_scorer(name: str) -> Scorer | TwoScorers:
    """The entry of this name in `lilora/scorers`; looked up once.

    Raises:
        ValueError: there is none; the message lists the choices.
    """
    entry: Scorer | TwoScorers = registry.load("scorers", name)
    return entry


def trial_tasks(trial: Trial) -> tuple[str, ...]:
    """Names of the trial's tasks, in the order learned; all of the benchmark's when the stream names none.

    Raises:
        ValueError: the benchmark or a task is unknown; the message lists the choices.
    """
    benchmark = load_benchmark(trial.stream.benchmark)
    names = trial.stream.tasks or tuple(task.name for task in benchmark.tasks)
    return tuple(benchmark.task(name).name for name in names)


def bind(trial: Trial) -> BoundTrial:
    """The trial with what its names stand for.

    Raises:
        ValueError: the benchmark, a task or a scorer is unknown; the message lists the choices.
    """
    benchmark, tasks = load_benchmark(trial.stream.benchmark), trial_tasks(trial)
    # An unseen task may be one of the stream's, where that names it; and has test rows alone.
    beside = [task.name for task in benchmark.unseen if task.name not in tasks]
    unseen = tuple(beside) if trial.scores_unlearned and trial.split == "test" else ()
    scorers = {name: load_scorer(benchmark.task(name).scorer) for name in (*tasks, *unseen)}
    scores = trial.stream.scores if any(isinstance(entry, TwoScorers) for entry in scorers.values()) else ""
    return BoundTrial(trial, benchmark, tasks, scorers, scores, _parameters(trial, tasks, scores), unseen)


def _parameters(trial: Trial, tasks: tuple[str, ...], scores: str) -> dict[str, Any]:
    flat: dict[str, Any] = {"method": method_name(trial.method)}
    flat |= _fields("method.", trial.method) | _fields("training.", trial.training)
    # Sites and layers in full are said in words, and where they are the usual ones not at all.
    flat |= {"backbone": trial.backbone.name} | _fields("backbone.", trial.backbone, without=("name", "sites", "full"))
    flat |= {"benchmark": trial.stream.benchmark}
    if trial.backbone.adapts:
        flat |= {"sites": trial.backbone.adapts}
    flat |= {"order": ",".join(tasks), "instructions": trial.stream.instructions}
    if trial.stream.limit is not None:
        flat |= {"subset": trial.stream.limit, "subset_seed": trial.stream.limit_seed}
    flat |= _unusual(trial.stream)
    if not isinstance(missing := trial.stream.missing, str):
        flat |= {"missing": f"{len(missing)} ids left out ({digest_of(sorted(missing))[:8]})"}
    if scores:
        flat |= {"scores": scores}
    if trial.answer_dtype:
        flat |= {"answer_dtype": trial.answer_dtype}
    if trial.stream.task_prompt:
        flat |= {"task_prompt": "told the task"}
    return flat | {"split": trial.split, "seed": trial.seed}


def _fields(prefix: str, value: Any, without: Collection[str] = ()) -> dict[str, Any]:
    """The fields of a part of a trial that can change a result."""
    fields = (item for item in dataclasses.fields(value) if item.metadata.get("identity", True))
    return {f"{prefix}{item.name}": getattr(value, item.name) for item in fields if item.name not in without}


def _unusual(stream: Stream) -> dict[str, Any]:
    """The fields of a stream that differ from the usual stream's, and that have no words of their own."""
    usual = _fields("", Stream())
    return {name: value for name, value in _fields("", stream, without=IN_WORDS).items() if value != usual[name]}
