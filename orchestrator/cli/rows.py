"""Rows of a study's matrices, said while it runs: a trial's scores after a stage, as soon as all of them are there.

Of a study of many trials nothing is said: their table is what people look at (`lilora status`).
"""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from orchestrator.execution.events import Event, RunStarted, StepFinished
from orchestrator.formats import format_score
from orchestrator.planning.lowering import Lowered
from orchestrator.results.reading import ResultReader

#: Of a study of more trials no rows are said.
MOST_TRIALS = 6


class Rows:
    """The listener. It reads a row once all of its scores are made; rows that a run found in the store are not said."""

    def __init__(self, lowered: Lowered, reader: ResultReader, console: Console) -> None:
        self.lowered, self.reader, self.console = lowered, reader, console
        #: Of each row, by its trial's place and its own: what has yet to be made.
        self._open: dict[tuple[int, int], set[str]] = {}

    def __call__(self, event: Event) -> None:
        """Take an event."""
        match event:
            case RunStarted(steps=steps) if len(self.lowered.trials) <= MOST_TRIALS:
                to_make = {step.digest for step in steps}
                for place, plan in enumerate(self.lowered.trials):
                    for row in range(len(plan.after)):
                        scores = {score.digest for (at, _), (_, score) in plan.cells.items() if at == row}
                        if lacking := scores & to_make:
                            self._open[place, row] = lacking
            case StepFinished(step):
                for (place, row), lacking in list(self._open.items()):
                    lacking.discard(step.digest)
                    if not lacking:
                        del self._open[place, row]
                        self._say(place, row)

    def _say(self, place: int, row: int) -> None:
        plan = self.lowered.trials[place]
        matrix = self.reader.trial(plan).matrices["main"]
        scores = zip(matrix.tasks, matrix.rows[row], strict=True)
        cells = ", ".join(f"{task} {format_score(score, 1)}" for task, score in scores if score is not None)
        after = f" after {plan.after[row]}" if matrix.is_sequence else ""
        self.console.print(f"[bold]{escape(plan.name)}[/bold]{escape(f'{after}: {cells}')}", soft_wrap=True)
