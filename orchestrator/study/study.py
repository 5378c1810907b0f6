"""A study as a value: trials, each a method on a stream of tasks, with its search, its figures and its paper.

Nothing here runs or reads results; `orchestrator.planning.lowering` turns it into steps. What two trials have in common
becomes one step: a task's data, a stage that both need, a prediction that both score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.study.naming import short_names
from orchestrator.study.paper import Paper
from orchestrator.study.search import Choice, Search
from orchestrator.study.sweep import Sweep
from orchestrator.study.trial import BoundTrial, Trial, bind


@dataclass(frozen=True)
class Figure:
    """A look at the adapters of one trial, drawn in the report.

    Attributes:
        kind: of `lilora.stages.analysis`: "cka" (how alike the tasks' LoRA matrices are), "fusion" (alpha before and
            after) or "allocation" (the weights of tasks' blocks in the answers after the last stage).
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
        search: hyper-parameters to be chosen on validation data before the table is made (`orchestrator.study.search`).
        choices: what such a search, or a sweep, chose; the trials have it already.
        sweep: in place of trials, one trial and the fields of it that are varied (`orchestrator.study.sweep`).
        suffixes: what is said in brackets behind each trial's name, "" for nothing; () where nothing is of any.
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
    suffixes: tuple[str, ...] = ()

    @property
    def searched(self) -> frozenset[tuple[str, str]]:
        """(method, field) of what is, or was, searched; a trial's name leaves it out."""
        candidates = self.search.candidates if self.search else ()
        chosen = {(choice.method, name) for choice in self.choices for name in choice.fields}
        return frozenset(chosen | {(item.method, item.field) for item in candidates})


def trial_names(study: Study, *, seed: bool = True) -> tuple[str, ...]:
    """`names_of` the study's trials."""
    return names_of(study, [bind(trial) for trial in study.trials], seed=seed)


def names_of(study: Study, trials: Sequence[BoundTrial], *, seed: bool = True) -> tuple[str, ...]:
    """A name for each trial from what differs among them, but for what is searched; see `naming.short_names`."""
    searched = study.searched
    flats = [trial.parameters for trial in trials]
    shown = [{key: value for key, value in flat.items() if (flat["method"], key) not in searched} for flat in flats]
    names = short_names(shown, seed=seed)
    said = study.suffixes or ("",) * len(names)
    return tuple(f"{name} ({more})" if more else name for name, more in zip(names, said, strict=True))
