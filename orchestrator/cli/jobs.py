"""The commands that use a cluster's job server: `submit`, `attach`, `stop`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.console import Output
from orchestrator.cli.options import AsJson, Real, StudyName, chosen

Address = Annotated[
    str,
    typer.Option("--address", metavar="URL", envvar="RAY_API_SERVER_ADDRESS", help="The head's dashboard."),
]
JobName = Annotated[str, typer.Argument(metavar="ID", help="As `lilora submit` named it.")]
LOCAL = "http://127.0.0.1:8265"


def add(app: typer.Typer) -> None:
    """Register the commands."""
    app.command(
        epilog="Example: lilora submit quickstart --address http://HEAD:8265 --store /shared/store --wait -- --slots 8"
    )(submit)
    app.command(epilog="Example: lilora attach lilora-quickstart-0a1b2c3d4e-1 --address http://HEAD:8265")(attach)
    app.command(epilog="Example: lilora stop lilora-quickstart-0a1b2c3d4e-1 --address http://HEAD:8265")(stop)


def submit(
    study: StudyName,
    options: Annotated[
        list[str] | None, typer.Argument(metavar="[-- OPTIONS]", help="For `lilora run` in the job.")
    ] = None,
    address: Address = LOCAL,
    real: Real = False,
    store: Annotated[
        str | None,
        typer.Option(
            "--store", metavar="DIR", envvar="LILORA_STORE", help="On storage that every machine shares; a full path."
        ),
    ] = None,
    working_dir: Annotated[
        Path, typer.Option("--working-dir", metavar="DIR", help="The code that is sent, without data.")
    ] = Path(),
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", metavar="PATTERN", help="More of it to leave out, as 'notes/*'.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Follow it to its end; its exit code becomes this one.")] = False,
    json: AsJson = False,
) -> None:
    """Run a study as a job on a Ray cluster; Ctrl-C leaves it running."""
    from orchestrator.cli.commands import jobs

    name, left_out = chosen(study, real), exclude or []
    raise typer.Exit(jobs.submit(name, address, store, working_dir, left_out, options or [], wait, Output(json)))


def attach(name: JobName, address: Address = LOCAL, json: AsJson = False) -> None:
    """Follow a submitted study; ends with its exit code."""
    from orchestrator.cli.commands import jobs

    raise typer.Exit(jobs.attach(name, address, Output(json)))


def stop(name: JobName, address: Address = LOCAL, json: AsJson = False) -> None:
    """Stop a submitted study; what is finished is kept."""
    from orchestrator.cli.commands import jobs

    raise typer.Exit(jobs.stop(name, address, Output(json)))
