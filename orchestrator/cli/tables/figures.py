"""A study's figures in numbers, for a terminal and for machines; the report draws them."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from rich.markup import escape

from orchestrator.cli.console import Output
from orchestrator.formats import format_score
from orchestrator.results.reading import StudyResults


def show_figures(results: StudyResults, output: Output) -> list[dict[str, Any]]:
    """Print each finished figure's mean figures; gives them for `--json`."""
    answers, lowered = [], results.lowered
    for figure, step, content in zip(lowered.study.figures, lowered.figures, results.figures, strict=True):
        facts = {} if content is None else figure_facts(figure.kind, content)
        answers.append({"kind": figure.kind, "title": figure.title, "step": step.digest, **facts})
        output.say("", f"[bold]{escape(figure.title or figure.kind)}[/bold]")
        for line in _lines(figure.kind, facts):
            output.say(line)
        if figure.caption:
            output.say(f"[dim]{escape(figure.caption)}[/dim]")
    return answers


def figure_facts(kind: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """Mean CKA of A and B between two tasks; mean alpha before and after each stage; or blocks' weights in answers."""
    if kind == "cka":
        return {name: _between(content[name]) for name in ("A", "B")}
    if kind == "allocation":
        lines = zip(content["tasks"], content["weights"], strict=True)
        return {"allocation": {task: dict(zip(content["blocks"], line, strict=True)) for task, line in lines}}
    return {
        "alpha": {task: {when: fmean(part[when]) for when in ("before", "after")} for task, part in content.items()}
    }


def _between(square: list[list[float]]) -> float | None:
    values = [value for row, line in enumerate(square) for column, value in enumerate(line) if row != column]
    return fmean(values) if values else None


def _lines(kind: str, facts: Mapping[str, Any]) -> list[str]:
    if not facts:
        return ["its step is not finished"]
    if kind == "cka":
        return [f"mean CKA between two tasks: A {format_score(facts['A'])}, B {format_score(facts['B'])}"]
    if kind == "allocation":
        parts = facts["allocation"]
        own = sum(_first(part) == task for task, part in parts.items())
        lines = [f"{escape(task)}: {_greatest(task, part)}" for task, part in parts.items()]
        return [f"the task's own block has the greatest weight on {own} of {len(parts)} tasks", *lines]
    return [
        f"{escape(task)}: mean alpha {part['before']:.3f} before, {part['after']:.3f} after"
        for task, part in facts["alpha"].items()
    ]


def _greatest(task: str, weights: Mapping[str, float | None]) -> str:
    """ "weight of its own block 0.31, greatest GQA's 0.42"."""
    first = _first(weights)
    return f"weight of its own block {weights[task]:.2f}, greatest {escape(first)}'s {weights[first]:.2f}"


def _first(weights: Mapping[str, float | None]) -> str:
    """The block of the greatest weight."""
    known = {block: weight for block, weight in weights.items() if weight is not None}
    return max(known, key=known.__getitem__)
