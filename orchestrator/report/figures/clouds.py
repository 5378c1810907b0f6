"""A cloud: rows of the table as points of two figures, what they keep against what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.report.figures.canvas import (
    FAINT,
    FILE_FAINT,
    FILE_INK,
    INK,
    LOCK,
    Form,
    dress,
    inline,
    new_figure,
    saved,
)
from orchestrator.report.style import Style
from orchestrator.study.metrics import Stat

#: Of costs that lie further apart than this, the axis is logarithmic.
WIDE = 20
#: With more points than these, their names are left to the legend.
MOST_NAMED = 12


@dataclass(frozen=True)
class Dot:
    """A row of the table: `cost`, at least 0, and score; `about` is said where one points at it."""

    name: str
    style: Style
    cost: float
    score: Stat
    about: str = ""


def cloud_svg(title: str, across: str, up: str, dots: Sequence[Dot]) -> str:
    """The dots as an SVG element; bars: one standard deviation over seeds."""
    with LOCK:
        figure = _drawn(title, across, up, dots, INK, FAINT)
        return inline(figure, title, {f"dot-{place}": dot.about for place, dot in enumerate(dots) if dot.about})


def cloud_file(title: str, across: str, up: str, dots: Sequence[Dot], form: Form) -> bytes:
    """The same as a file."""
    with LOCK:
        return saved(_drawn(title, across, up, dots, FILE_INK, FILE_FAINT), form)


def _drawn(title: str, across: str, up: str, dots: Sequence[Dot], ink: str, faint: str) -> Any:
    figure = new_figure(5.2, 3.5)
    axes = figure.add_subplot()
    dress(axes, title, ink, faint)
    for place, dot in enumerate(dots):
        look = {"color": dot.style.colour, "marker": dot.style.marker or "s"}
        axes.plot(dot.cost, dot.score.mean, markersize=8, zorder=3, gid=f"dot-{place}", linestyle="", **look)
        if dot.score.deviation:
            bar = {"color": dot.style.colour, "linewidth": 1.2, "zorder": 2}
            axes.errorbar(dot.cost, dot.score.mean, dot.score.deviation, **bar)
        if len(dots) <= MOST_NAMED:
            name = {"textcoords": "offset points", "xytext": (7, 4), "fontsize": 7.5, "color": ink}
            axes.annotate(dot.name, (dot.cost, dot.score.mean), **name)
    above = [dot.cost for dot in dots if dot.cost > 0]
    if above and max(above) > WIDE * min(above):
        axes.set_xscale("symlog" if len(above) < len(dots) else "log", **_threshold(dots, min(above)))
    else:
        axes.xaxis.set_major_formatter(_short)
    axes.set(xlabel=across, ylabel=up)
    axes.margins(x=0.12, y=0.12)
    return figure


def _threshold(dots: Sequence[Dot], least: float) -> dict[str, float]:
    """Where a scale that has 0 on it leaves off being linear."""
    return {"linthresh": least} if any(dot.cost == 0 for dot in dots) else {}


def _short(value: float, _: Any) -> str:
    """ "1.5M": a tick."""
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:g}{letter}"
    return f"{value:g}"
