"""The one place that writes numbers, seconds and bytes for people: on a terminal, in a report, in a message.

What is not there is a dash (`DASH`), never a zero and never an empty cell.
"""

from __future__ import annotations

DASH = "\N{EN DASH}"


def format_score(value: float | None, decimals: int = 2) -> str:
    """ "37.13"; a dash where there is none."""
    return DASH if value is None else f"{value:.{decimals}f}"


def format_signed(points: float) -> str:
    """ "−14.9", "+2.0", "0.0"; with a minus sign, which a hyphen is not."""
    text = f"{points:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "\N{MINUS SIGN}")


def format_count(count: int | None) -> str:
    """ "146,432"; a dash where it is not known."""
    return DASH if count is None else f"{count:,}"


def format_rounded(count: float) -> str:
    """ "187.3M", "12.0k", "640": decimal thousands, for what is known to three digits at best."""
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= unit:
            return f"{count / unit:.1f}{letter}"
    return f"{count:.0f}"


def format_seconds(seconds: float) -> str:
    """ "0.2 s", "42 s", "12 min 05 s", "3 h 20 min"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def format_bytes(count: float) -> str:
    """ "640 B", "12 MiB", "1.5 TiB": binary units."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
