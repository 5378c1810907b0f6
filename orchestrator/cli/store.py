"""The commands that look after a store: `lilora gc` and `lilora store verify|copy|ls`."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.console import Output
from orchestrator.cli.options import STORE, AsJson, StoreFolder, StudyName, open_store


def add(app: typer.Typer) -> None:
    """Register them."""
    app.command(epilog="Example: lilora gc --min-age 7d, then the same with --yes")(gc)
    store = typer.Typer(no_args_is_help=True, help="Look after a store: check it, copy a study out of it, list it.")
    store.command(epilog="Example: lilora store verify quickstart --remove")(verify)
    store.command(epilog="Example: lilora store copy quickstart s3://bucket/lilora")(copy)
    store.command(name="ls", epilog="Example: lilora store ls --store /shared/lilora")(ls)
    app.add_typer(store, name="store")


def gc(
    keep: Annotated[
        list[str] | None,
        typer.Option("--keep", metavar="STUDY", help="A study to keep, and again; by default all of experiments/."),
    ] = None,
    min_age: Annotated[str, typer.Option(metavar="AGE", help="What is younger stays: 30m, 12h, 1d.")] = "1d",
    yes: Annotated[bool, typer.Option("--yes", help="Remove it; without this nothing is removed.")] = False,
    store: StoreFolder = STORE,
    json: AsJson = False,
) -> None:
    """What of a store no study needs, with its size; --yes removes it. What a run uses stays."""
    from orchestrator.cli.commands.store import collect_garbage

    raise typer.Exit(collect_garbage(open_store(store), keep or [], min_age, yes, Output(json)))


def verify(
    study: Annotated[str | None, typer.Argument(metavar="[STUDY]", help="Its artifacts only.")] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Move damaged ones to the store's damaged/.")] = False,
    store: StoreFolder = STORE,
    json: AsJson = False,
) -> None:
    """Check the checksum of every file; exit code 1 if an artifact is damaged."""
    from orchestrator.cli.commands.store import verify as check

    raise typer.Exit(check(open_store(store), study, remove, Output(json)))


def copy(
    study: StudyName,
    destination: Annotated[str, typer.Argument(metavar="DESTINATION", help="A folder, or a URL such as s3://b/p.")],
    store: StoreFolder = STORE,
    json: AsJson = False,
) -> None:
    """Copy a study's artifacts, with what they refer to, to another store; again to go on."""
    from orchestrator.cli.commands.store import copy as copy_study

    raise typer.Exit(copy_study(open_store(store), study, destination, Output(json)))


def ls(store: StoreFolder = STORE, json: AsJson = False) -> None:
    """How many artifacts of each kind there are, and how large they are."""
    from orchestrator.cli.commands.store import list_contents

    list_contents(open_store(store), Output(json))
