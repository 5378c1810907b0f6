"""`lilora costs`: the hours, memory and FLOPs of a study on real GPUs, counted without weights and without data."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.console import Output
from orchestrator.cli.options import STORE, AsJson, Real, StoreFolder, StudyName, chosen, open_store
from orchestrator.errors import UserError


def costs(
    study: StudyName,
    real: Real = False,
    gpu: Annotated[str, typer.Option(metavar="NAME", help="h100, h200, b200, a100-80, a100-40, ...")] = "h100",
    utilisation: Annotated[
        float,
        typer.Option(
            metavar="SHARE", help="Share of the GPU's peak rate that training reaches; answering reaches less."
        ),
    ] = 0.30,
    workers: Annotated[int | None, typer.Option(min=1, help="GPUs a stage; by default the trials'.")] = None,
    micro_batch: Annotated[int | None, typer.Option(min=1, help="Rows that a GPU holds at a time, at most.")] = None,
    strategy: Annotated[str | None, typer.Option(metavar="NAME", help="ddp, zero1, zero2 or zero3.")] = None,
    offload: Annotated[
        bool | None, typer.Option("--offload/--no-offload", help="ZeRO's parts in the host's memory.")
    ] = None,
    checkpointing: Annotated[
        bool | None, typer.Option("--checkpointing/--no-checkpointing", help="Compute activations again.")
    ] = None,
    bits: Annotated[
        int | None,
        typer.Option(
            metavar="4|8", help="Bits a weight of the frozen language model (bitsandbytes); by default the trials'."
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--stages", help="A row a stage; else a row a method.")] = False,
    store: StoreFolder = STORE,
    json: AsJson = False,
) -> None:
    """What a study takes on real GPUs: FLOPs, memory, store, hours.

    Each stage is reckoned with the largest micro-batch that fits the GPU. Exit code 2 where none fits.

    Example: lilora costs table1_single --real --gpu a100-80 --workers 4 --strategy zero2
    """
    from orchestrator.cli.tables.costs import costs_json, refuse_what_does_not_fit, say_costs
    from orchestrator.resolving.catalogue import find_target
    from orchestrator.resolving.estimate import study_cost
    from orchestrator.resolving.how_trained import HowTrained

    output, place, name = Output(json), open_store(store), chosen(study, real)
    how = HowTrained(gpu, utilisation, workers, micro_batch, strategy, offload, checkpointing, bits)
    target = find_target(name)
    if not target.has_trials:
        raise UserError(f"'{name}' has no trials, so there are no stages to count")
    with output.quiet():
        cost = study_cost(target.resolve(place), place, how)
    say_costs(cost, output, every)
    answer = costs_json(target.name, cost)
    output.finish(answer)
    refuse_what_does_not_fit(answer)
