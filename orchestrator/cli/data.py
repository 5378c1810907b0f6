"""`lilora check-data`: are a benchmark's files there, whole, and what they should be?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import AsJson


def add(app: typer.Typer) -> None:
    """Register the command."""

    @app.command(
        "check-data", epilog="Example: lilora check-data cvit /data/cvit --instructions single --out wrong.json"
    )
    def check_data(
        benchmark: Annotated[
            str, typer.Argument(metavar="BENCHMARK", help="cvit, coin, ucit, or one that DIR/benchmark.toml describes.")
        ],
        folder: Annotated[
            Path | None, typer.Argument(metavar="[DIR]", help="Its data; by default $LILORA_DATA/BENCHMARK.")
        ] = None,
        instructions: Annotated[
            list[str] | None, typer.Option(metavar="SETTING", help="Must be there; by default what is.")
        ] = None,
        task: Annotated[list[str] | None, typer.Option(metavar="TASK", help="Only this one; may be repeated.")] = None,
        samples: Annotated[int, typer.Option(min=0, help="Pictures of each file to open.")] = 8,
        first: Annotated[int, typer.Option(min=1, help="Problems of each kind to print.")] = 5,
        out: Annotated[Path | None, typer.Option(metavar="FILE", help="All that was found, as JSON.")] = None,
        json: AsJson = False,
    ) -> None:
        """Check a benchmark's files: all rows, all pictures' places; exit code 1 if anything is wrong.

        Studies look for data in $LILORA_DATA, a folder with a folder (or a link to one) for each benchmark.
        """
        from orchestrator.cli.commands.check_data import check_data as check
        from orchestrator.cli.console import Output

        raise typer.Exit(check(benchmark, folder, instructions or [], task or [], samples, first, out, Output(json)))
