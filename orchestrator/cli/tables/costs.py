"""The costs of a study on real GPUs, as a table and for machines: of `lilora costs`, and of `lilora plan`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from lilora.costs.gpus import GIB
from orchestrator.cli.console import Output
from orchestrator.errors import UserError
from orchestrator.formats import format_rounded
from orchestrator.resolving.estimate import AnswerCost, StageCost, StudyCost, study_cost
from orchestrator.resolving.how_trained import HowTrained
from orchestrator.resolving.resolve import Resolved
from orchestrator.storage.store import Store


def refuse_what_does_not_fit(answer: dict[str, Any] | None) -> None:
    """Raise what `costs_json` names.

    Raises:
        UserError: a stage does not fit, or no answer does; for a stage the message names the nearest setting that does.
    """
    refusals = answer["refusals"] if answer else ()
    if refusals:
        more = f" (and {len(refusals) - 1} more like it)" if len(refusals) > 1 else ""
        raise UserError(refusals[0] + more)


def costs_of_real(name: str, resolved: Resolved, store: Store, output: Output) -> dict[str, Any] | None:
    """What a study with published models takes with `lilora costs`'s defaults, as a table and for machines.

    None for a study without such a model: the tiny ones' minutes are measured, not counted. A stage that does not fit
    is named among the "refusals".
    """
    trials = [plan.trial for plan in resolved.table.trials]
    if not any(trial.backbone.architecture is not None and trial.backbone.family != "auto" for trial in trials):
        return None
    with output.quiet():
        cost = study_cost(resolved, store, HowTrained())
    say_costs(cost, output)
    output.say(f"[dim]other GPUs, workers and strategies: lilora costs {escape(name)} --help[/dim]")
    return costs_json(name, cost)


def say_costs(cost: StudyCost, output: Output, every: bool = False) -> None:
    """The table, what all of it comes to, and what was assumed."""
    groups = [(stage.label, [stage]) for stage in cost.stages] if every else _by_method(cost.stages)
    output.table(_table("stage" if every else "method", groups))
    total = _sums(cost.stages)
    output.say(
        f"in all: {len(cost.stages)} stages, {total['samples']:,.0f} samples, {total['steps']:,} steps, "
        f"{format_rounded(total['tokens'])} tokens, {total['flops']:.2e} FLOPs; {total['hours']:,.1f} hours on "
        f"{cost.stages[0].setting.workers if cost.stages else 1} x {cost.gpu.name} at {cost.utilisation:.0%} of its "
        "peak"
    )
    output.say(
        f"answers: {cost.answers:,} items, {cost.answering:.2e} FLOPs, at least {cost.answering_hours:,.1f} hours "
        f"at {cost.answering_utilisation:.0%} (a token at a time is bound by memory, not by FLOPs); adapters in the "
        f"store: at most {cost.store_bytes / GIB:,.2f} GiB"
    )
    if cost.embedded:
        output.say(
            f"rows' tasks are found by embeddings of {cost.embedded:,} training rows: {cost.embedding:.2e} FLOPs, "
            f"{cost.embedding_hours:,.2f} hours on one GPU"
        )
    for line in _smaller(cost):
        output.say(escape(line))
    for name in dict.fromkeys(item.backbone for item in cost.answer_costs):
        of_backbone = [item for item in cost.answer_costs if item.backbone == name]
        output.say(_describe(max(of_backbone, key=AnswerCost.dearness), cost.gpu.name))
    output.say("[dim]a stage is counted once, under the method that names it: DirLoRA's are SeqLoRA's[/dim]")
    for line in cost.assumptions:
        output.say(f"[dim]{escape(line)}[/dim]")


def _smaller(cost: StudyCost) -> list[str]:
    """Which rows take a smaller micro-batch than asked for, and why: a line for each method, backbone and number."""
    groups: dict[tuple[str, str, int, int], list[StageCost]] = {}
    for stage in cost.stages:
        if stage.setting.micro_batch < stage.asked:
            groups.setdefault((stage.method, stage.backbone, stage.asked, stage.setting.micro_batch), []).append(stage)
    return [
        f"micro-batch of {taken} on {backbone}: {method}, {_count(group)} "
        f"({', '.join(dict.fromkeys(stage.task for stage in group))}); {asked} would take "
        f"{max(stage.asked_bytes for stage in group) / GIB:.1f} GiB, the {cost.gpu.name} has {cost.gpu.gibibytes:g}"
        for (method, backbone, asked, taken), group in groups.items()
    ]


def _describe(answers: AnswerCost, gpu: str) -> str:
    """The memory of the dearest answers on a backbone; every method's is among what `costs_json` gives."""
    memory = answers.memory
    parts = ("weights", "merged", "adapters", "cache", "prompts", "features")
    named = ", ".join(f"{name} {getattr(memory, name) / GIB:.2f}" for name in parts if getattr(memory, name))
    waiting = f"; {memory.host / GIB:.2f} GiB of the host's while originals wait for merged ones" if memory.host else ""
    fewer = "" if memory.rows == answers.asked else f", where {answers.asked} do not fit on the {gpu}"
    return (
        f"answers on {answers.backbone}: {memory.total / GIB:.2f} GiB a GPU for the dearest ({answers.method}), in "
        f"batches of {memory.rows}{fewer}: {named}{waiting}"
    )


def _sums(stages: Sequence[StageCost]) -> dict[str, Any]:
    """What adds up over stages."""
    names = ("samples", "steps", "tokens", "flops", "hours")
    return {name: sum(getattr(stage, name) for stage in stages) for name in names}


def _by_method(stages: Sequence[StageCost]) -> list[tuple[str, list[StageCost]]]:
    """Stages of one method and backbone under one label; those of a search under its own."""
    groups: dict[tuple[str, str], list[StageCost]] = {}
    for stage in stages:
        groups.setdefault(("the search" if stage.search else stage.method, stage.backbone), []).append(stage)
    several = len({backbone for _, backbone in groups}) > 1
    return [
        (f"{method}{f' on {backbone}' if several else ''} ({_count(group)})", group)
        for (method, backbone), group in groups.items()
    ]


def _count(stages: Sequence[StageCost]) -> str:
    return f"{len(stages)} stage{'s' if len(stages) > 1 else ''}"


def _table(title: str, groups: Sequence[tuple[str, Sequence[StageCost]]]) -> Table:
    """A row for each group: its sums, the memory of its dearest stage, and its micro-batches, least to greatest."""
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    grid.add_column(title)
    heads = "samples,steps,tokens,FLOPs,weights,adapters,gradients,optimiser,activations,(kept),(recomputed),logits"
    for head in (*heads.split(","), "GiB a GPU", "micro-batch", "hours"):
        grid.add_column(head, justify="right")
    for label, group in groups:
        total, memory = _sums(group), max((stage.memory for stage in group), key=lambda memory: memory.total)
        parts = [memory.weights, memory.adapters, memory.gradients, memory.optimiser, memory.activations]
        parts += [memory.activations_kept, memory.activations_recomputed, memory.logits, memory.total]
        taken = sorted({stage.setting.micro_batch for stage in group})
        grid.add_row(
            escape(label), f"{total['samples']:,.0f}", f"{total['steps']:,}", format_rounded(total["tokens"]),
            f"{total['flops']:.2e}", *(f"{part / GIB:.2f}" for part in parts),
            "-".join(str(rows) for rows in dict.fromkeys((taken[0], taken[-1]))), f"{total['hours']:,.1f}",
        )  # fmt: skip
    return grid


def costs_json(name: str, cost: StudyCost) -> dict[str, Any]:
    """The same for machines; sizes in bytes, and a memory's total with its parts."""
    answer = dataclasses.asdict(cost)
    for item, written in zip(cost.stages + cost.answer_costs, answer["stages"] + answer["answer_costs"], strict=True):
        written["memory"]["total"] = item.memory.total
    answer["answering_flops"], answer["answer_memory"] = answer.pop("answering"), answer.pop("answer_costs")
    answer["embedding_flops"] = answer.pop("embedding")
    return {"study": name, **answer, **_sums(cost.stages)}
