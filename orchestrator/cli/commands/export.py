"""`lilora export`: a finished stage as a stock PEFT folder, or merged into the backbone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from orchestrator.cli.console import Output
from orchestrator.cli.options import STORE, AsJson, StoreFolder, StudyName, open_store
from orchestrator.errors import UserError

if TYPE_CHECKING:
    from orchestrator.planning.lowering import Lowered, TrialPlan
    from orchestrator.steps.step import Step


def export(
    study: StudyName,
    method: Annotated[str, typer.Option(metavar="NAME", help="The trial: its method, or its name in the table.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for it; must be new or empty.")],
    after: Annotated[str | None, typer.Option(metavar="TASK", help="After which task; by default the last.")] = None,
    task: Annotated[
        str | None, typer.Option(metavar="TASK", help="To answer which; by default the one of --after.")
    ] = None,
    merged: Annotated[
        bool, typer.Option("--merged", help="The whole model, with what was learned in its weights.")
    ] = False,
    seed: Annotated[int | None, typer.Option(help="Of the trial, where there are several.")] = None,
    store: StoreFolder = STORE,
    json: AsJson = False,
) -> None:
    """Write a stage's adapters as a stock PEFT LoRA folder, or merged into the model.

    Layers that were trained in full beside them, such as a projector, go along, weight and bias.

    Example: lilora export quickstart --method lilora --task GQA --out gqa_adapter
    """
    from orchestrator.resolving.catalogue import find_target

    output, place = Output(json), open_store(store)
    lowered = find_target(study).study(place)
    trial = find_trial(lowered, method, seed)
    after, task, predict = find_cell(trial, after, task)
    # Of a method that looks for each row's task the answers read every task's state: the task's own is exported.
    stage = dict(predict.inputs).get("state") or dict(predict.inputs).get(f"state-{task}")
    # Not above: this loads torch, and a mistyped name should not wait for it.
    with output.quiet():
        from transformers.utils.logging import disable_progress_bar

        from lilora.adapters.state import load_state
        from lilora.stages.export import check_exportable, check_out
        from lilora.stages.export import export as write

        check_exportable(trial.trial.method, merged)
        check_out(out)
        assert stage is not None, "what is exportable was trained"
        if not place.has(stage.digest):
            raise UserError(
                f"'{stage.label}' is not finished in the store {place.root}: run `lilora run {study}` first"
            )
        about = {
            "study": lowered.study.name,
            "trial": trial.name,
            "after": after,
            "stage": stage.digest,
            "settings": dict(trial.bound.parameters),
        }
        disable_progress_bar()
        state = load_state(place.fetch(stage.digest), place.fetch)
        config = predict.config
        done = write(config.method, state, config.backbone, task, out, merged=merged, dtype=config.dtype, about=about)
    kind = "merged model" if merged else f"PEFT LoRA of rank {done.rank}"
    modules = f"{done.modules} modules" + (f" and {done.full} trained in full" if done.full else "")
    output.say(
        f"{escape(trial.name)} after {escape(after)}, to answer {escape(task)}: {kind}, {modules}, "
        f"{done.parameters:,} parameters\nfolder   {escape(str(out))}"
    )
    if done.not_served:
        output.say(f"[dim]not for vLLM or SGLang as it is: {'; '.join(done.not_served)}. --merged writes a model[/dim]")
    output.finish({"out": str(out), "task": task, "merged": merged, **about, **vars(done)})


def find_trial(lowered: Lowered, method: str, seed: int | None) -> TrialPlan:
    """The one trial that `method` names (its name, its name without the seed, or its method's), with this seed.

    Raises:
        UserError: none or several are; the message lists them.
    """
    from orchestrator.planning.by_name import places_called
    from orchestrator.study.naming import method_name

    seeded = [trial for trial in lowered.trials if seed is None or trial.trial.seed == seed]
    names, groups = [trial.name for trial in seeded], [trial.group for trial in seeded]
    methods = [method_name(trial.trial.method) for trial in seeded]
    found = [seeded[place] for place in places_called(method, names, groups, methods)]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(f"'{trial.name}'" for trial in found or lowered.trials)
    with_seed = "" if seed is None else f" with seed {seed}"
    if found:
        raise UserError(
            f"{len(found)} trials of '{lowered.study.name}' are called '{method}'{with_seed}: {listed}; "
            "give one of these names, or add --seed N"
        )
    raise UserError(f"no trial of '{lowered.study.name}' is called '{method}'{with_seed}; there are: {listed}")


def find_cell(trial: TrialPlan, after: str | None, task: str | None) -> tuple[str, str, Step]:
    """Row, column and prediction step: by default the last row, and the task just learned there.

    Raises:
        UserError: there is no such stage or task, or it was learned later.
    """
    after = trial.after[-1] if after is None else after
    if after not in trial.after:
        raise UserError(f"'{trial.name}' has no stage '{after}'; there are: {', '.join(trial.after)}")
    row = trial.after.index(after)
    known = range(trial.num_learned(row))
    learned = [column for column in known if (row, column) in trial.cells]
    names = [trial.tasks[column] for column in learned]
    if task is None:
        task = after if after in names else names[-1]
    if task not in names:
        raise UserError(
            f"'{task}' was not learned by '{trial.name}' after {after}; learned by then: {', '.join(names)}"
        )
    return after, task, trial.cells[row, trial.tasks.index(task)][0]
