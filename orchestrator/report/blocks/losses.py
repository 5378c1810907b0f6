"""Training curves of the report: the loss of each row's stages, a panel for each place in an order of tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.report.digests import made_by
from orchestrator.report.evidence import Evidence
from orchestrator.report.figures.losses import Curve, LossPanel, loss_svg
from orchestrator.report.style import Style
from orchestrator.results.table import TableRow

Histories = Mapping[str, Sequence[Mapping[str, Any]]]


def loss_panels(rows: Sequence[TableRow], looks: Mapping[str, Style], histories: Histories) -> list[LossPanel]:
    """The loss over the steps of each stage, as the stages noted it: mean over the finished trials of a row.

    One set of panels for each order of tasks; what is learned all at once has a panel of its own.
    """
    titles: dict[tuple[tuple[str, ...], int], str] = {}
    curves: dict[tuple[tuple[str, ...], int], list[Curve]] = {}
    orders = list(dict.fromkeys(row.results[0].plan.tasks for row in rows))
    for row in rows:
        plan = row.results[0].plan
        at_once = len(plan.stages) != len(plan.tasks)
        for place in range(len(plan.stages)):
            if (curve := _curve(row, place, looks[row.name], histories)) is None:
                continue
            key = ((), place) if at_once else (plan.tasks, place)
            order = f"order {orders.index(plan.tasks) + 1}, " if len(orders) > 1 and not at_once else ""
            titles[key] = plan.after[place] if at_once else f"{order}{place + 1} {plan.tasks[place]}"
            curves.setdefault(key, []).append(curve)
    return [LossPanel(titles[key], tuple(curves[key])) for key in sorted(titles, key=lambda key: _place(orders, *key))]


def _place(orders: Sequence[tuple[str, ...]], tasks: tuple[str, ...], place: int) -> tuple[int, int]:
    return (orders.index(tasks) if tasks else len(orders), place)


def _curve(row: TableRow, place: int, style: Style, histories: Histories) -> Curve | None:
    """None where no trial of the row has finished the stage, or noted its steps."""
    stages = [result.stages[place] for result in row.results]
    known = [stage.digest for stage in stages if stage is not None and stage.digest in histories]
    if not known:
        return None
    losses = [{int(line["step"]): float(line["loss"]) for line in histories[digest]} for digest in known]
    steps = sorted(set.intersection(*(set(each) for each in losses)))
    means = tuple(math.fsum(each[step] for each in losses) / len(losses) for step in steps)
    about = f"{row.name}: loss {means[-1]:.3g} at step {steps[-1]}; {made_by('stages', known)}" if steps else ""
    return Curve(row.name, style, tuple(steps), means, about) if steps else None


def loss_block(rows: Sequence[TableRow], looks: Mapping[str, Style], evidence: Evidence) -> list[str]:
    """`loss_panels` as SVG."""
    return [loss_svg(panel) for panel in loss_panels(rows, looks, evidence.histories)]
