"""Training curves: the loss over a stage's optimiser steps, a line for each row of the table."""

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


@dataclass(frozen=True)
class Curve:
    """A row's loss after each of `steps`; `about` is said where one points at it."""

    name: str
    style: Style
    steps: tuple[int, ...]
    losses: tuple[float, ...]
    about: str = ""


@dataclass(frozen=True)
class LossPanel:
    """The curves of one stage."""

    title: str
    curves: tuple[Curve, ...]


def loss_svg(panel: LossPanel) -> str:
    """The panel as an SVG element."""
    with LOCK:
        figure = new_figure(3.5, 2.5)
        _draw(figure.add_subplot(), panel, INK, FAINT)
        about = {f"curve-{place}": curve.about for place, curve in enumerate(panel.curves) if curve.about}
        return inline(figure, f"loss {panel.title}", about)


def losses_file(panels: Sequence[LossPanel], form: Form, columns: int = 3) -> bytes:
    """The panels in one file with a legend below."""
    from matplotlib.lines import Line2D

    with LOCK:
        columns = min(columns, len(panels))
        num_rows = -(-len(panels) // columns)
        figure = new_figure(3.5 * columns, 2.5 * num_rows + 0.45)
        for place, panel in enumerate(panels):
            _draw(figure.add_subplot(num_rows, columns, place + 1), panel, FILE_INK, FILE_FAINT)
        looks = {curve.name: curve.style for panel in panels for curve in panel.curves}
        handles = [
            Line2D([], [], linewidth=1.4, label=name, color=look.colour, linestyle=look.dash)
            for name, look in looks.items()
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(looks)), frameon=False, fontsize=9)
        return saved(figure, form)


def _draw(axes: Any, panel: LossPanel, ink: str, faint: str) -> None:
    dress(axes, panel.title, ink, faint)
    for place, curve in enumerate(panel.curves):
        look = {"color": curve.style.colour, "linestyle": curve.style.dash}
        marker = "o" if len(curve.steps) == 1 else None
        axes.plot(
            curve.steps, curve.losses, linewidth=1.3, alpha=0.9, zorder=3, gid=f"curve-{place}", marker=marker, **look
        )
    axes.set(xlabel="optimiser step", ylabel="loss")
    axes.set_ylim(bottom=0)
