"""Colours and line styles: one per row of the table, the same in every figure, readable on light and dark paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from orchestrator.results.table import TableRow

# Mid-tones with a contrast of 3:1 or more against both white and #14181f, told apart by the colour-blind together
# with the markers.
PALETTE = ("#2f7de1", "#dd6b20", "#1f9d73", "#c64b8c", "#8662d6", "#a8871b", "#1f98b3", "#c2453d")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
REFERENCE = "#808995"
#: Matplotlib's names of lines: whole, dashed, dash and dot, dotted.
Dash = Literal["-", "--", "-.", ":"]
DASHES: dict[str, Dash] = {"sequential": "-", "independent": "--", "joint": "-.", "none": ":"}
# Matplotlib's marker letters as characters, for the legend in HTML.
GLYPHS = {"o": "●", "s": "■", "^": "▲", "D": "◆", "v": "▼", "P": "✚", "X": "✖", "*": "★", "": ""}

#: Characters of a digest that pages show.
SHORT = 10

_LIGHT, _MIDDLE, _DARK = (238, 243, 250), (108, 160, 216), (16, 62, 122)


@dataclass(frozen=True)
class Style:
    """How a row's line looks."""

    colour: str
    marker: str
    dash: Dash

    @property
    def glyph(self) -> str:
        """The marker as a character."""
        return GLYPHS[self.marker]


def styles(rows: Sequence[TableRow]) -> dict[str, Style]:
    """A style for each row by name: references (zero-shot) grey and dotted, tasks trained alone dashed."""
    result: dict[str, Style] = {}
    used = 0
    for row in rows:
        if row.schedule == "none":
            result[row.name] = Style(REFERENCE, "", ":")
            continue
        # A second round of the colours comes with other markers.
        marker = MARKERS[(used + 3 * (used // len(PALETTE))) % len(MARKERS)]
        result[row.name] = Style(PALETTE[used % len(PALETTE)], marker, DASHES[row.schedule])
        used += 1
    return result


def heat(value: float, top: float = 100.0) -> tuple[str, str]:
    """(background, text) colours of a cell with `value` of 0..`top`; beyond that the ends are kept."""
    share = min(1.0, max(0.0, value / top))
    low, high, part = (_LIGHT, _MIDDLE, 2 * share) if share < 0.5 else (_MIDDLE, _DARK, 2 * share - 1)
    mixed = tuple(round(a + (b - a) * part) for a, b in zip(low, high, strict=True))
    background = "#{:02x}{:02x}{:02x}".format(*mixed)
    # White and #10161f (luminance 0.008) stand out equally where the background's luminance is 0.197.
    return background, "#ffffff" if luminance(background) < 0.197 else "#10161f"


def luminance(colour: str) -> float:
    """Relative luminance of "#rrggbb", 0..1 (WCAG 2)."""
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
