"""The paper that figures are drawn on: one lock, the page's two colours, and the forms that a figure is saved in.

Matplotlib is used without pyplot, behind one lock, since its settings are global and MLflow's listener draws in a
thread of its own. The same figure gives the same bytes in each form.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from threading import Lock
from typing import Any, Literal, TypeVar

LOCK = Lock()
#: Stand-ins that are replaced by the page's own colours once the SVG is written.
INK, FAINT = "#010203", "#010204"
#: Ink and lines of a figure that is a file of its own, on white paper.
FILE_INK, FILE_FAINT = "#1b2330", "#d5dae2"

#: A picture, or one of two vector forms: SVG for pages, PDF for LaTeX.
Form = Literal["png", "svg", "pdf"]
#: Height of a legend's line, in inches.
LEGEND_LINE = 0.2
Panel = TypeVar("Panel")


def new_figure(width: float, height: float) -> Any:
    """A figure of so many inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def hollow(colour: str) -> dict[str, Any]:
    """The look of a marker that is not filled."""
    return {"markerfacecolor": "none", "markeredgecolor": colour, "markeredgewidth": 1.5}


def dress(axes: Any, title: str, ink: str, faint: str) -> None:
    """Title, grid and spines as in every figure."""
    axes.set_title(title, fontsize=10, fontweight="bold", color=ink, loc="left", pad=6)
    axes.set_facecolor("none")
    axes.grid(color=faint, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(faint)
    axes.tick_params(color=faint, labelcolor=ink, labelsize=8, length=3)
    axes.xaxis.label.set(color=ink, fontsize=8.5)
    axes.yaxis.label.set(color=ink, fontsize=8.5)


def panels_file(
    panels: Sequence[Panel], form: Form, columns: int, height: float, draw: Callable[[Any, Panel], None]
) -> bytes:
    """The panels in one file, `height` inches each, with a legend of all that is labelled in them below."""
    with LOCK:
        columns = min(columns, len(panels))
        num_rows = -(-len(panels) // columns)
        figure = new_figure(3.5 * columns, height * num_rows)
        figure.get_layout_engine().set(wspace=0.06, hspace=0.06)
        named: dict[str, Any] = {}
        for place, panel in enumerate(panels):
            axes = figure.add_subplot(num_rows, columns, place + 1)
            draw(axes, panel)
            for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
                named.setdefault(name, handle)
        beside = legend_columns(named, figure.get_figwidth())
        # However many lines there are, their names take nothing from the panels' height.
        figure.set_figheight(height * num_rows + 0.25 + LEGEND_LINE * -(-len(named) // beside))
        figure.legend(
            handles=list(named.values()),
            labels=list(named),
            loc="outside lower center",
            ncols=beside,
            frameon=False,
            fontsize=9,
        )
        return saved(figure, form)


def legend_columns(names: Iterable[str], width: float) -> int:
    """How many of the names stand beside each other in a legend of `width` inches: four, or as many as fit; 1 or more.

    A name takes 0.07 inches a letter, and 0.6 for its line and what lies between.
    """
    lengths = [len(name) for name in names]
    return max(1, min(4, len(lengths), int(width // (0.07 * max(lengths, default=0) + 0.6))))


def saved(figure: Any, form: Form) -> bytes:
    """The figure as a file's bytes: text stays text, and no date is in it."""
    from matplotlib import rc_context

    bytes_ = io.BytesIO()
    unsigned: dict[Form, dict[str, Any]] = {
        "png": {"Software": None},
        "svg": {"Date": None, "Creator": None},
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    }
    with rc_context({"svg.hashsalt": "lilora", "svg.fonttype": "none", "pdf.fonttype": 42}):
        figure.savefig(bytes_, format=form, dpi=150, facecolor="white", metadata=unsigned[form])
    return bytes_.getvalue()


def inline(figure: Any, salt: str, about: Mapping[str, str] | None = None) -> str:
    """The figure as an SVG element: text stays text, colours and font come from the page, ids are its own.

    Args:
        salt: what the ids are made of; figures of one page need different ones.
        about: of artists, by their gid, what is said where one points at them.
    """
    from matplotlib import rc_context

    text = io.StringIO()
    with rc_context({"svg.hashsalt": salt, "svg.fonttype": "none"}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r'\1 role="img"', svg, count=1, flags=re.DOTALL)
    svg = re.sub(r' id="(?:figure|axes|patch|text|line2d|matplotlib\.axis|xtick|ytick|FillBetween)[^"]*"', "", svg)
    for gid, said in (about or {}).items():
        svg = svg.replace(f'<g id="{gid}">', f"<g><title>{escape(said)}</title>")
    return svg.replace(INK, "currentColor").replace(FAINT, "var(--line)").strip()
