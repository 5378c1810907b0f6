"""The pictures of a trial: its accuracy matrix and its curves, whole as artifacts and fitted to the page for a note."""

from __future__ import annotations

import io

from orchestrator.report.blocks.panels import curves, stages
from orchestrator.report.figures import heat_map_file, lines_file
from orchestrator.report.style import styles
from orchestrator.results.reading import TrialResult
from orchestrator.results.table import table

#: Pixels that a run's page has between its two side panels on a screen of 1300. A wider picture pushes the page's
#: numbers out of sight, and the interface takes no width for one.
WIDTH = 680


def trial_pictures(result: TrialResult) -> dict[str, tuple[str, bytes]]:
    """Title -> file name and PNG, of a complete trial."""
    rows = table([result])
    looks = styles(rows)
    found = {"Accuracy matrix": ("matrix.png", heat_map_file(result.matrices["main"], result.plan.name, "png"))}
    if panels := [*curves(rows, looks), *stages(rows, looks)]:
        found["Curves over the stages"] = ("curves.png", lines_file(panels, "png", columns=2))
    return found


def fitted(picture: bytes) -> bytes:
    """The picture, no wider than `WIDTH`."""
    from PIL import Image

    with Image.open(io.BytesIO(picture)) as image:
        if image.width <= WIDTH:
            return picture
        small, text = image.convert("RGB"), io.BytesIO()
        small.thumbnail((WIDTH, image.height), Image.Resampling.LANCZOS)
        small.save(text, format="PNG")
    return text.getvalue()
