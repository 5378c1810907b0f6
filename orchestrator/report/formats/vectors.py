"""The page's figures as files: the same panels, in vectors, each with a caption."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lilora.matrix import Matrix
from orchestrator.report.blocks.costs import CLOUD, dots
from orchestrator.report.blocks.losses import loss_panels
from orchestrator.report.blocks.panels import curves, stages
from orchestrator.report.evidence import MOST_ROWS, Evidence
from orchestrator.report.figures import heat_map_file, lines_file
from orchestrator.report.figures.canvas import Form
from orchestrator.report.figures.clouds import cloud_file
from orchestrator.report.figures.losses import losses_file
from orchestrator.report.style import styles
from orchestrator.results.table import TableRow, mean_matrix


@dataclass(frozen=True)
class Drawing:
    """A figure: the name of its file without an ending, its caption, and what draws it in a form."""

    name: str
    caption: str
    draw: Callable[[Form], bytes]

    def write(self, folder: Path, form: Form) -> Path:
        """Write the file; its path."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name}.{form}"
        path.write_bytes(self.draw(form))
        return path


def drawings(rows: Sequence[TableRow], evidence: Evidence) -> list[Drawing]:
    """The figures that there is something to draw of; a matrix for each row, of at most `MOST_ROWS`."""
    looks, found = styles(rows), []
    tasks, over, losses = curves(rows, looks), stages(rows, looks), loss_panels(rows, looks, evidence.histories)
    cloud = dots(rows, looks)
    if drawn := tuple(panel for panel in tasks if panel.lines):
        caption = "Score on each task, from the stage that learned it to the last."
        found.append(Drawing("tasks", caption, lambda form: lines_file(drawn, form)))
    if any(panel.lines for panel in over):
        caption = "AP and BWT after each stage."
        found.append(Drawing("stages", caption, lambda form: lines_file(over, form)))
    if len(cloud) > 1:
        caption = "AP against the parameters that are stored beside the backbone."
        found.append(Drawing("parameters", caption, lambda form: cloud_file(*CLOUD, cloud, form)))
    if losses:
        caption = "Loss over each stage's optimiser steps."
        found.append(Drawing("losses", caption, lambda form: losses_file(losses, form)))
    for place, row in enumerate(rows[:MOST_ROWS], 1):
        if any(value is not None for line in means(row).rows for value in line):
            caption = f"{row.name}: score on each task (column) after each stage (row), in percent."
            found.append(Drawing(f"matrix-{place}", caption, _matrix(row)))
    return found


def means(row: TableRow) -> Matrix:
    """The row's accuracy matrix, cell by cell the mean over its trials."""
    plan = row.results[0].plan
    cells = [[None if stat is None else stat.mean for stat in line] for line in mean_matrix(row)]
    return Matrix(plan.tasks, tuple(map(tuple, cells)), plan.after)


def _matrix(row: TableRow) -> Callable[[Form], bytes]:
    return lambda form: heat_map_file(means(row), row.name, form)
