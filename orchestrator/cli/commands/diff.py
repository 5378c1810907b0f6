"""`lilora diff`: what two trials differ in, from their configuration to single items, by kind of error."""

from __future__ import annotations

import contextlib
import re
import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.commands.export import find_trial
from orchestrator.cli.console import Output
from orchestrator.cli.options import STORE, AsJson, StoreFolder, open_store
from orchestrator.errors import UserError

if TYPE_CHECKING:
    from orchestrator.planning.lowering import Lowered, TrialPlan
    from orchestrator.results.reading import ResultReader

#: A trial of a study: "quickstart/lilora", "studies/own.py:function/lilora rank=8".
IN_STUDY = re.compile(r"(?P<study>.+\.py(?::\w+)?|\w+(?::\w+)?)/(?P<trial>.+)")
#: Of a digest so many digits at least.
DIGITS = 4

TrialName = Annotated[
    str, typer.Argument(metavar="TRIAL", help="STUDY/TRIAL, or with --study its method, name in the table, or digest.")
]


def diff(
    a: TrialName,
    b: TrialName,
    study: Annotated[str | None, typer.Option(metavar="STUDY", help="Look in this study.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of both trials, where there are several.")] = None,
    show: Annotated[int, typer.Option(min=0, help="Items to print of each kind of difference.")] = 0,
    store: StoreFolder = STORE,
    json: AsJson = False,
) -> None:
    """What two trials differ in: configuration, environment, each metric, each task, each item.

    Items: which one has right and the other wrong, and which were right after their stage and wrong at the end.

    By kind of error: the form, another task's answer, off by one for numbers, another answer.

    Beside each difference: its interval over items, and over own seeds interval, verdict and number of seeds.

    Example: lilora diff --study quickstart seqlora lilora
    """
    from orchestrator.cli.tables.trial_diff import show_diff
    from orchestrator.results.comparison.trials import diff as compared
    from orchestrator.results.reading import ResultReader

    output, place = Output(json), open_store(store)
    with output.quiet():
        reader = ResultReader(place)
        (first, one), (second, other) = (find(name, study, seed, reader) for name in (a, b))
        for plan, lowered in ((first, one), (second, other)):
            if not reader.trial(plan).scores:
                run = shlex.join(["lilora", "run", lowered.study.name, "--store", place.url])
                raise UserError(f"the store {place.url} holds no scores of '{plan.name}': {run} makes them")
        found = compared(first, second, (one, other), reader)
    show_diff(found, output, show)
    output.finish({"store": place.url, **found.to_json()})


def find(name: str, study: str | None, seed: int | None, reader: ResultReader) -> tuple[TrialPlan, Lowered]:
    """The one trial that `name` means, and its study.

    Without a study a trial is looked for in all of them, among those that the store has scores of.

    Raises:
        UserError: none or several are called so; the message lists them.
    """
    from orchestrator.resolving.catalogue import studies

    if (within := IN_STUDY.fullmatch(name)) and study is None:
        study, name = within["study"], within["trial"]
    if study is not None:
        return _in_study(study, name, seed, reader)
    found: dict[str, tuple[TrialPlan, Lowered]] = {}
    present = reader.store.digests()
    for candidate in studies():
        with contextlib.suppress(ValueError, TypeError, ImportError):
            plan, lowered = _in_study(candidate, name, seed, reader)
            if any(score.digest in present for _, score in plan.cells.values()):
                found.setdefault(plan.digest, (plan, lowered))
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        listed = ", ".join(f"'{lowered.study.name}/{plan.name}'" for plan, lowered in found.values())
        raise UserError(f"{len(found)} trials are called '{name}': give one of {listed}, or --study STUDY")
    raise UserError(
        f"no trial called '{name}' has scores in the store {reader.store.url}: give STUDY/TRIAL, or a digest's first "
        f"digits ({DIGITS} or more); the studies are: {', '.join(studies()) or '(none)'}"
    )


def _in_study(study: str, name: str, seed: int | None, reader: ResultReader) -> tuple[TrialPlan, Lowered]:
    """The trial, and of its study the trials that were lowered to find it: its row at least."""
    from orchestrator.planning.by_name import lower_row
    from orchestrator.resolving.catalogue import find_target

    target = find_target(study)
    # A name takes no step to be found; a digest is known of every step or of none.
    row = lower_row(target.asked, name, seed) if target.asked and not _may_be_digest(name) else None
    lowered = row or target.study(reader.store, reader)
    return _by_digest(lowered, name) or find_trial(lowered, name, seed), lowered


def _may_be_digest(name: str) -> bool:
    return len(name) >= DIGITS and re.fullmatch(r"[0-9a-f]+", name) is not None


def _by_digest(lowered: Lowered, name: str) -> TrialPlan | None:
    """The trial whose digest, or that of one of its scores, begins so; None where none or several have one."""
    if not _may_be_digest(name):
        return None
    found = [
        plan
        for plan in lowered.trials
        if plan.digest.startswith(name) or any(score.digest.startswith(name) for _, score in plan.cells.values())
    ]
    return found[0] if len(found) == 1 else None
