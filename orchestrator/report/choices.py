"""The report's section on hyper-parameters: what was searched for each row, by which protocol, and what was chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.study import Study
from orchestrator.study.search import Choice, Option, best_first, describe_protocol, describe_values

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
        }
        for choice in study.choices
    ]
    first = study.choices[0]
    about = {"metric": first.metric, "split": first.split, "sweep": first.sweep}
    return about | {"protocol": describe_protocol(study.choices), "lines": lines}


def _in_order(choice: Choice) -> Sequence[Option]:
    return sorted(choice.options, key=best_first) if choice.sweep else choice.options


def _text(option: Option) -> str:
    """The option's values, and why it has no figure where that is known."""
    why = f" (stopped after {option.stopped_after} tasks)" if option.stopped_after is not None else ""
    return describe_values(option.values) + (why or (" (failed)" if option.failed else ""))
