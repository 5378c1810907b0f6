"""Figures: small panels as inline SVG that takes the page's colours and font, and whole figures as files.

A figure is a function of numbers: the same numbers give the same bytes, in a page and in a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lilora.matrix import Matrix
from orchestrator.report.figures.canvas import (
    FAINT,
    FILE_FAINT,
    FILE_INK,
    INK,
    LOCK,
    Form,
    dress,
    hollow,
    inline,
    new_figure,
    panels_file,
    saved,
)
from orchestrator.report.style import Style, heat
from orchestrator.study.metrics import Stat


@dataclass(frozen=True)
class Line:
    """One line of a panel: means in percent and, with several seeds, a band of one standard deviation."""

    name: str
    style: Style
    places: tuple[int, ...]
    means: tuple[float, ...]
    deviations: tuple[float, ...] = ()


@dataclass(frozen=True)
class Panel:
    """Lines over the stages; `stages` are the tick labels of x, `low` and `high` the limits of y, `width` in inches.

    `across`: what x is; `named`: whether lines are named in the panel, as where they are no rows of the table.
    """

    title: str
    label: str
    stages: tuple[str, ...]
    lines: tuple[Line, ...]
    low: float | None = 0.0
    high: float | None = 100.0
    width: float = 3.5
    across: str = "after learning"
    named: bool = False


@dataclass(frozen=True)
class Pair:
    """Strict and lenient score of one task, in percent."""

    task: str
    strict: float
    lenient: float


def line_svg(panel: Panel) -> str:
    """The panel as an SVG element."""
    with LOCK:
        figure = new_figure(panel.width, 2.75)
        _draw_lines(figure.add_subplot(), panel, INK, FAINT)
        return inline(figure, panel.title)


def pairs_svg(title: str, pairs: Sequence[Pair], colour: str) -> str:
    """Strict (filled) and lenient (hollow) score of each task, joined: the gap is lost format alone."""
    with LOCK:
        figure = new_figure(3.5, 0.75 + 0.27 * len(pairs))
        axes = figure.add_subplot()
        dress(axes, title, INK, FAINT)
        for place, pair in enumerate(pairs):
            axes.plot([pair.strict, pair.lenient], [place, place], color=colour, alpha=0.45, linewidth=2.2, zorder=2)
            axes.plot(pair.lenient, place, "o", markersize=6.5, zorder=3, **hollow(colour))
            axes.plot(pair.strict, place, "o", color=colour, markersize=4, zorder=4)
        axes.set(xlim=(-3, 103), ylim=(len(pairs) - 0.5, -0.5), xlabel="score after the last stage (%)")
        axes.set_yticks(range(len(pairs)), [pair.task for pair in pairs])
        axes.grid(axis="y", visible=False)
        return inline(figure, title)


def lines_file(panels: Sequence[Panel], form: Form, columns: int = 3) -> bytes:
    """The panels in one file with a legend below."""
    return panels_file(panels, form, columns, 2.75, lambda axes, panel: _draw_lines(axes, panel, FILE_INK, FILE_FAINT))


def heat_map_file(matrix: Matrix, title: str, form: Form) -> bytes:
    """An accuracy matrix with its values printed; cells that were not evaluated stay white."""
    from matplotlib.patches import Rectangle

    with LOCK:
        tasks, after = matrix.tasks, matrix.after
        figure = new_figure(1.8 + 0.72 * len(tasks), 1.25 + 0.42 * len(after))
        axes = figure.add_subplot()
        for row, values in enumerate(matrix.rows):
            for column, value in enumerate(values):
                if value is None:
                    continue
                background, ink = heat(value)
                axes.add_patch(Rectangle((column - 0.48, row - 0.46), 0.96, 0.92, color=background, linewidth=0))
                axes.text(column, row, f"{value:.1f}", color=ink, ha="center", va="center", fontsize=8.5)
        axes.set(xlim=(-0.5, len(tasks) - 0.5), ylim=(len(after) - 0.5, -0.5))
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_xticks(range(len(tasks)), tasks, rotation=30, ha="right", fontsize=8.5)
        axes.set_yticks(range(len(after)), [f"after {name}" if name in tasks else name for name in after], fontsize=8.5)
        axes.set_xlabel("score on the task (%)", fontsize=8.5)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        return saved(figure, form)


def grid_svg(
    title: str, names: Sequence[str], values: Sequence[Sequence[float | None]], columns: Sequence[str] = ()
) -> str:
    """Figures from 0 to 1, printed, a row for each of `names`; a column for each of them too, or of `columns`.

    Where there is no figure the cell stays empty.
    """
    across = columns or names
    from matplotlib.patches import Rectangle

    with LOCK:
        width, height = (1.3 + 0.52 * len(side) for side in (across, names))
        figure = new_figure(width, height * 0.92)
        axes = figure.add_subplot()
        dress(axes, title, INK, FAINT)
        for row, line in enumerate(values):
            for column, value in enumerate(line):
                if value is None:
                    continue
                background, ink = heat(100 * value)
                axes.add_patch(Rectangle((column - 0.48, row - 0.48), 0.96, 0.96, color=background, linewidth=0))
                axes.text(column, row, f"{value:.2f}", color=ink, ha="center", va="center", fontsize=8)
        axes.set(xlim=(-0.5, len(across) - 0.5), ylim=(len(names) - 0.5, -0.5), aspect="equal")
        axes.set_xticks(range(len(across)), across, rotation=35, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(names)), names)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        return inline(figure, title)


def fusion_svg(title: str, before: Sequence[float], after: Sequence[float]) -> str:
    """Fusion coefficients of each module before (hollow) and after training (filled); lines: their means (Fig. 3)."""
    colour = "#2c6fbb"
    with LOCK:
        figure = new_figure(5.0, 2.75)
        axes = figure.add_subplot()
        dress(axes, title, INK, FAINT)
        places = range(len(before))
        for place, low, high in zip(places, before, after, strict=True):
            axes.plot([place, place], [low, high], color=colour, alpha=0.35, linewidth=1.2, zorder=2)
        axes.plot(places, before, "o", markersize=5.5, zorder=3, label="before", **hollow(colour))
        axes.plot(places, after, "o", color=colour, markersize=4, zorder=4, label="after")
        axes.axhline(sum(before) / len(before), color=colour, linestyle=":", linewidth=1.1, label="mean before")
        axes.axhline(sum(after) / len(after), color=colour, linestyle="--", linewidth=1.1, label="mean after")
        axes.set(ylim=(0, 1), xlabel="adapted module, in the model's order", ylabel="alpha")
        axes.legend(fontsize=7.5, frameon=False, ncols=4, loc="upper center", labelcolor=INK)
        return inline(figure, title)


def ranks_svg(title: str, names: Sequence[str], axes_of: Sequence[tuple[str, Sequence[Stat | None]]]) -> str:
    """A line for each name, and on it a dot for each metric, in axes side by side; bars: deviations over seeds.

    Args:
        title: above the first.
        names: from top to bottom.
        axes_of: for each metric its label, and its values in the order of `names`.
    """
    colour = "#2f7de1"
    with LOCK:
        figure = new_figure(4.0 + 2.2 * len(axes_of), 1.0 + 0.2 * len(names))
        for number, (label, stats) in enumerate(axes_of):
            axes = figure.add_subplot(1, len(axes_of), number + 1)
            dress(axes, "" if number else title, INK, FAINT)
            for place, stat in enumerate(stats):
                if stat is not None:
                    bar = stat.deviation or 0.0
                    axes.errorbar(stat.mean, place, xerr=bar, fmt="o", color=colour, markersize=4.5, elinewidth=1.1)
            axes.set(ylim=(len(names) - 0.5, -0.5), xlabel=label)
            axes.set_yticks(range(len(names)), [""] * len(names) if number else names)
            axes.margins(x=0.08)
        return inline(figure, title)


def _draw_lines(axes: Any, panel: Panel, ink: str, faint: str) -> None:
    dress(axes, panel.title, ink, faint)
    for line in panel.lines:
        style = line.style
        look = {"color": style.colour, "linestyle": style.dash, "marker": style.marker or None}
        axes.plot(
            line.places, line.means, linewidth=1.7, markersize=4.2, zorder=3, clip_on=False, label=line.name, **look
        )
        if line.deviations and len(line.places) > 1:
            low = [mean - spread for mean, spread in zip(line.means, line.deviations, strict=True)]
            high = [mean + spread for mean, spread in zip(line.means, line.deviations, strict=True)]
            axes.fill_between(line.places, low, high, color=style.colour, alpha=0.16, linewidth=0, zorder=2)
        elif line.deviations:
            axes.errorbar(line.places, line.means, line.deviations, color=style.colour, linewidth=1.2, zorder=2)
    axes.set(xlim=(-0.3, len(panel.stages) - 0.7), xlabel=panel.across, ylabel=panel.label)
    axes.set_ylim(panel.low, panel.high)
    axes.set_xticks(range(len(panel.stages)), panel.stages, rotation=35, ha="right", rotation_mode="anchor")
    if panel.named:
        axes.legend(fontsize=7, frameon=False, labelcolor=ink)
