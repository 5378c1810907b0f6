"""The report's section on hyper-parameters: what was searched for each row, by which protocol, and what was chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.report.figures import Line, Panel, line_svg
from orchestrator.report.style import MARKERS, PALETTE, Style
from orchestrator.study import Study
from orchestrator.study.search import (
    Choice,
    Option,
    best_first,
    describe_edges,
    describe_protocol,
    describe_values,
)

#: Of a sweep's configurations, so many are shown, best first; choices.json has all of them.
MOST_OPTIONS = 60


def choices_block(study: Study) -> dict[str, Any] | None:
    """The template's variables of the section; None for a study without a search."""
    if not study.choices:
        return None
    lines = [
        {
            "name": choice.name,
            "fields": ", ".join(choice.fields),
            "options": [
                {"text": _text(option), "figure": option.figure, "chosen": option is choice.best}
                for option in _in_order(choice)[:MOST_OPTIONS]
            ],
            "more": max(0, len(choice.options) - MOST_OPTIONS),
            "runner_up": ""
            if choice.runner_up is None
            else f"{_text(choice.runner_up)}: {choice.runner_up.figure:.2f}",
            "edges": describe_edges(choice),
        }
        for choice in study.choices
    ]
    first = study.choices[0]
    about = {"metric": first.metric, "split": first.split, "sweep": first.sweep}
    curves = [] if first.sweep else [line_svg(panel) for choice in study.choices if (panel := curve(choice))]
    return about | {"protocol": describe_protocol(study.choices), "lines": lines, "curves": curves}


def curve(choice: Choice) -> Panel | None:
    """The validation figure over the values of the field that most of them were tried of, a line for each of the rest.

    None for fewer than two finished values, and for values that are no numbers.
    """
    finished = [option for option in choice.options if option.figure is not None]
    columns = [sorted({option.values[place] for option in finished}) for place in range(len(choice.fields))
               if all(type(option.values[place]) in (int, float) for option in finished)]  # fmt: skip
    if len(columns) < len(choice.fields) or not finished or max(map(len, columns)) < 2:
        return None
    along = max(range(len(columns)), key=lambda place: len(columns[place]))
    lines: dict[tuple[Any, ...], dict[int, float]] = {}
    for option in finished:
        rest = tuple(value for place, value in enumerate(option.values) if place != along)
        assert option.figure is not None
        lines.setdefault(rest, {})[columns[along].index(option.values[along])] = option.figure
    others = [name.partition(".")[2] for place, name in enumerate(choice.fields) if place != along]
    drawn = tuple(
        Line(
            ", ".join(f"{name} {describe_values([value])}" for name, value in zip(others, rest, strict=True)),
            Style(PALETTE[number % len(PALETTE)], MARKERS[number % len(MARKERS)], "-"),
            tuple(sorted(points)),
            tuple(points[place] for place in sorted(points)),
        )
        for number, (rest, points) in enumerate(sorted(lines.items()))
    )
    figures = [figure for points in lines.values() for figure in points.values()]
    low, high = min(figures), max(figures)
    room = max(1.0, 0.15 * (high - low))
    ticks = tuple(describe_values([value]) for value in columns[along])
    label = f"{choice.split} {choice.metric} (%)"
    across = choice.fields[along].partition(".")[2]
    return Panel(choice.name, label, ticks, drawn, low - room, high + room, across=across, named=bool(others))


def _in_order(choice: Choice) -> Sequence[Option]:
    return sorted(choice.options, key=best_first) if choice.sweep else choice.options


def _text(option: Option) -> str:
    """The option's values, and why it has no figure where that is known."""
    why = f" (stopped after {option.stopped_after} tasks)" if option.stopped_after is not None else ""
    return describe_values(option.values) + (why or (" (failed)" if option.failed else ""))
