"""Options and arguments that several commands of the command line share, and the store that they name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from orchestrator.storage.store import Store

STORE = ".lilora"

StudyName = Annotated[str, typer.Argument(metavar="STUDY", help="A file of experiments/ by name, or path.py:function.")]
StoreFolder = Annotated[
    str,
    typer.Option(
        "--store",
        metavar="DIR",
        envvar="LILORA_STORE",
        help="Where results are kept: a folder, or a URL such as s3://bucket/prefix.",
        show_default=True,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="End standard output with one JSON object.")]
TrackingUri = Annotated[
    str | None,
    typer.Option("--tracking", metavar="URI", help="Where MLflow keeps its data: mlflow.db in the store, or 'none'."),
]

Address = Annotated[
    str | None, typer.Option(metavar="ADDR", help="A running Ray cluster; else a local one is started.")
]
Slots = Annotated[int | None, typer.Option(min=1, help="Steps at once; by default one a core.")]
Real = Annotated[
    bool, typer.Option("--real", help="The paper's own model, data and ranks: the file's function `paper`.")
]
PAPER = "paper"


def chosen(study: str, real: bool) -> str:
    """The study to work on: as named, or with `real` the function `paper` of its file.

    Raises:
        UserError: a function is named already.
    """
    if not real:
        return study
    from orchestrator.errors import UserError

    if ":" in study:
        raise UserError(f"'{study}' names a function already: leave out --real, or the function")
    return f"{study}:{PAPER}"


def cluster_options(address: str | None, slots: int | None) -> list[str]:
    """The same options once more, for a command to be shown."""
    return [*(["--address", address] if address else []), *(["--slots", str(slots)] if slots else [])]


def open_store(url: str) -> Store:
    """The store in this folder or at this URL; nothing is touched yet."""
    from orchestrator.storage import store

    return store.Store(url)
