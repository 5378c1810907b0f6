"""The output of a command: words for people, one JSON object for machines.

With --json, standard output ends in one JSON object, and all else goes to standard error.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.panel import Panel
from rich.table import Table


class Output:
    """A command's output: `say` for people, `finish` for machines."""

    def __init__(self, as_json: bool = False) -> None:
        self.as_json = as_json
        self.console = Console(stderr=as_json, highlight=False)
        self.errors = Console(stderr=True, highlight=False)

    def say(self, *parts: Any) -> None:
        """Print for people; text may hold rich markup."""
        self.console.print(*parts, soft_wrap=all(isinstance(part, str) for part in parts))

    def fits(self, grid: Table) -> bool:
        """Whether the table goes into the terminal's width; anything goes into a file or a pipe."""
        return not self.console.is_terminal or _natural(grid) <= self.console.width

    def table(self, grid: Table) -> None:
        """Print a table in its own width: a number is never cut."""
        wide = Console(stderr=self.as_json, highlight=False, width=max(self.console.width, _natural(grid)))
        wide.print(grid, crop=False)

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """With --json, whatever libraries print inside goes to standard error."""
        if self.as_json:
            with contextlib.redirect_stdout(sys.stderr):
                yield
        else:
            yield

    def finish(self, answer: Mapping[str, Any]) -> None:
        """With --json, print `answer` as the last line of standard output."""
        if self.as_json:
            sys.stdout.write(json.dumps(answer, allow_nan=False) + "\n")
            sys.stdout.flush()


def _natural(grid: Table) -> int:
    """The width that the table takes when nothing limits it."""
    return Measurement.get(Console(width=10_000), Console(width=10_000).options, grid).maximum


def show_error(error: BaseException) -> None:
    """One panel with the message; messages name the remedy."""
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.filename and error.strerror:
        text = f"{error.filename}: {error.strerror}"
    note = "[dim]the traceback: lilora --debug ...[/dim]"
    Console(stderr=True, highlight=False).print(
        Panel(f"{escape(text)}\n{note}", title="Error", title_align="left", border_style="red")
    )
