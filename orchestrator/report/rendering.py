"""Pages and texts made of templates: one environment, with the project's way to write numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.formats import format_bytes, format_count, format_score, format_seconds, format_signed
from orchestrator.results.table import is_best


def render(template: str, variables: dict[str, Any], filters: Mapping[str, Callable[[str], str]] | None = None) -> str:
    """The text of a file of `templates` with its variables; one that is missing is an error.

    What a user wrote is escaped in HTML; other texts do it with `filters`.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=lambda name: name is None or name.endswith((".html.jinja", ".css.jinja")),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {
        "seconds": format_seconds,
        "bytes": format_bytes,
        "count": format_count,
        "signed": format_signed,
        **(filters or {}),
    }
    environment.globals |= {"is_best": is_best, "score": _score}
    return environment.get_template(template).render(**variables)


def _score(value: float | None, decimals: int = 1) -> str:
    """A score as pages print it; a dash where there is none."""
    return format_score(value, decimals)
