"""The report's section on hyper-parameters: what was searched for each row, by which protocol, and what was chosen."""

from __future__ import annotations

from typing import Any

from orchestrator.search import describe_protocol, describe_values
from orchestrator.study import Study


def choices_block(study: Study) -> dict[str, Any] | None:
    """The template's variables of the section; None for a study without a search."""
    if not study.choices:
        return None
    lines = [
        {
            "name": choice.name,
            "fields": ", ".join(choice.fields),
            "options": [
                {"text": describe_values(option.values), "figure": option.figure, "chosen": option is choice.best}
                for option in choice.options
            ],
        }
        for choice in study.choices
    ]
    return {"protocol": describe_protocol(study.choices), "metric": study.choices[0].metric, "lines": lines}
