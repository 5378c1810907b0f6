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
    panels_file,
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
    return panels_file(panels, form, columns, 2.5, lambda axes, panel: _draw(axes, panel, FILE_INK, FILE_FAINT))


def _draw(axes: Any, panel: LossPanel, ink: str, faint: str) -> None:
    dress(axes, panel.title, ink, faint)
    for place, curve in enumerate(panel.curves):
        look = {"color": curve.style.colour, "linestyle": curve.style.dash, "label": curve.name}
        marker = "o" if len(curve.steps) == 1 else None
        axes.plot(
            curve.steps, curve.losses, linewidth=1.3, alpha=0.9, zorder=3, gid=f"curve-{place}", marker=marker, **look
        )
    axes.set(xlabel="optimiser step", ylabel="loss")
    axes.set_ylim(bottom=0)
