"""A study is a value: trials, each a method on a stream of tasks. `orchestrator.lowering` turns it into steps.

Nothing here runs, reads results or imports torch. What two trials have in common becomes one step: a task's data, a
stage that both need, a prediction that both score. A trial's resources say how it runs, never what it is.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from lilora import registry
from lilora.backbone import Backbone
from lilora.benchmark import Benchmark, Stream
from lilora.datafolder import find_benchmark
from lilora.method import Method
from lilora.scorer import Scorer, TwoScorers
from lilora.training import Training
from orchestrator.naming import method_name, short_names
from orchestrator.step import Resources

if TYPE_CHECKING:
    from orchestrator.papers import Paper
    from orchestrator.search import Choice, Search
    from orchestrator.sweep import Sweep


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
        scored: after which stages: "each", or only the "last", where a figure of that row is all that is asked for.
        resources: what a training step may use; not part of the trial's identity.
    """

    method: Method
    backbone: Backbone
    stream: Stream = Stream()
    training: Training = Training()
    seed: int = 0
    split: str = "test"
    scored: Literal["each", "last"] = field(default="each", metadata={"identity": False})
    resources: Resources = field(default=Resources(), compare=False, metadata={"identity": False})


@dataclass(frozen=True)
class Figure:
    """A look at the adapters of one trial, drawn in the report.

    Attributes:
        kind: of `lilora.analysis`: "cka" (how alike the tasks' LoRA matrices are) or "fusion" (alpha before and after).
        trial: the trial's place in the study, from 0.
        tasks: whose stages are looked at; () for all of the trial's.
        title, caption: for people.
    """

    kind: str
    trial: int = 0
    tasks: tuple[str, ...] = ()
    title: str = ""
    caption: str = ""


@dataclass(frozen=True)
class Study:
    """Trials to be compared in one table.

    Attributes:
        name: short, usable as a folder's name.
        trials: in the order of the table's rows.
        title, description: for people.
        figures: looks at trials' adapters.
        paper: what the study reproduces; the report and the table show it beside ours.
        search: hyper-parameters to be chosen on validation data before the table is made (`orchestrator.search`).
        choices: what such a search, or a sweep, chose; the trials have it already.
        sweep: in place of trials, one trial and the fields of it that are varied (`orchestrator.sweep`).
    """

    name: str
    trials: tuple[Trial, ...] = ()
    title: str = ""
    description: str = ""
    figures: tuple[Figure, ...] = ()
    paper: Paper | None = None
    search: Search | None = None
    choices: tuple[Choice, ...] = ()
    sweep: Sweep | None = None

    @property
    def searched(self) -> frozenset[tuple[str, str]]:
        """(method, field) of what is, or was, searched; a trial's name leaves it out."""
        candidates = self.search.candidates if self.search else ()
        chosen = {(choice.method, name) for choice in self.choices for name in choice.fields}
        return frozenset(chosen | {(item.method, item.field) for item in candidates})


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


def scores_of(trial: Trial) -> str:
    """Which version of the scorers the trial uses: "paper" or "standard"; "" where each of its tasks' has but one."""
    benchmark = load_benchmark(trial.stream.benchmark)
    entries = (load_scorer(benchmark.task(name).scorer) for name in trial_tasks(trial))
    return trial.stream.scores if any(isinstance(entry, TwoScorers) for entry in entries) else ""


def trial_tasks(trial: Trial) -> tuple[str, ...]:
    """Names of the trial's tasks, in the order learned; all of the benchmark's when the stream names none.

    Raises:
        ValueError: the benchmark or a task is unknown; the message lists the choices.
    """
    benchmark = load_benchmark(trial.stream.benchmark)
    names = trial.stream.tasks or tuple(task.name for task in benchmark.tasks)
    return tuple(benchmark.task(name).name for name in names)


def parameters(trial: Trial) -> dict[str, Any]:
    """What the trial is, as flat names and plain values: the method's fields as `method.NAME`, and so on."""
    flat: dict[str, Any] = {"method": method_name(trial.method)}
    for prefix, value in (("method", trial.method), ("training", trial.training)):
        for item in dataclasses.fields(value):
            if item.metadata.get("identity", True):
                flat[f"{prefix}.{item.name}"] = getattr(value, item.name)
    flat |= {"backbone": trial.backbone.name, "benchmark": trial.stream.benchmark}
    flat |= {"order": ",".join(trial_tasks(trial)), "instructions": trial.stream.instructions}
    if trial.stream.limit is not None:
        flat |= {"subset": trial.stream.limit, "subset_seed": trial.stream.limit_seed}
    if scores := scores_of(trial):
        flat |= {"scores": scores}
    return flat | {"split": trial.split, "seed": trial.seed}


def trial_names(study: Study, *, seed: bool = True) -> tuple[str, ...]:
    """A name for each trial from what differs among them, but for what is searched; see `naming.short_names`."""
    searched = study.searched
    flats = [parameters(trial) for trial in study.trials]
    shown = [{key: value for key, value in flat.items() if (flat["method"], key) not in searched} for flat in flats]
    return short_names(shown, seed=seed)
