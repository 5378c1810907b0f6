"""Numbers, seconds and bytes as people read them: the one place that writes them."""

from __future__ import annotations


def number(value: float | None) -> str:
    """A score with two decimals; a dash where there is none."""
    return "-" if value is None else f"{value:.2f}"


def duration(seconds: float | None) -> str:
    """Seconds as people say them: "45 s", "3:07 min", "2:05 h"."""
    if seconds is None:
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02d} h"


def size(count: float) -> str:
    """Bytes in binary units."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def format_seconds(seconds: float) -> str:
    """ "42 s", "12 min 05 s", "3 h 20 min"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def format_signed(points: float) -> str:
    """ "−14.9", "+2.0", "0.0"; with a minus sign, which a hyphen is not."""
    text = f"{points:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "\N{MINUS SIGN}")


def format_count(count: int | None) -> str:
    """ "146,432"; a dash where it is not known."""
    return "–" if count is None else f"{count:,}"
