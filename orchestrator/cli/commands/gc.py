"""`lilora gc`: the parts of a store that no study needs, listed, and removed if told so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from orchestrator.cli.console import Output
from orchestrator.cli.options import STORE, AsJson, StoreFolder, open_store
from orchestrator.errors import UserError
from orchestrator.formats import format_bytes

if TYPE_CHECKING:
    from orchestrator.storage.garbage import Garbage
    from orchestrator.storage.store import Store

SHOWN = 20


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
    """What of a store no study needs, with its size; --yes removes it. What a run uses stays.

    With --yes nothing is removed while a study of experiments/ cannot be read, since nobody knows what it needs.

    Example: lilora gc --min-age 7d
    """
    from orchestrator.storage.garbage import FOLDERS, age, collect, garbage

    output, place, seconds = Output(json), open_store(store), age(min_age)
    with output.quiet():
        needed, read, unreadable = _needed(keep or [], place)
    for name, why in unreadable.items():
        output.say(f"[yellow]{escape(name)} cannot be read, so what it needs is not known: {escape(why)}[/yellow]")
    if yes and unreadable:
        raise UserError(
            f"nothing is removed while {', '.join(unreadable)} cannot be read: mend it, or name the studies to keep "
            "with --keep STUDY"
        )
    output.say(f"kept: what {len(read)} studies need ({escape(', '.join(read))}), and what is in use")
    found = collect(place, needed, seconds) if yes else garbage(place, needed, seconds)
    _show_garbage(found, output)
    total = sum(item.size for item in found)
    if yes:
        output.say(f"removed {len(found)} entries, {format_bytes(total)}")
    elif found:
        output.say(f"{len(found)} entries, {format_bytes(total)}, would be removed; nothing was. To do it: --yes")
    else:
        output.say("nothing to remove")
    output.finish(
        {
            "removed": yes,
            "entries": len(found),
            "bytes": total,
            "kept_studies": read,
            "unreadable": unreadable,
            "by_folder": {folder: _totals(found, folder) for folder in FOLDERS},
            "artifacts": [item.name for item in found if item.folder == "artifacts"],
        }
    )


def _needed(keep: Sequence[str], store: Store) -> tuple[frozenset[str], list[str], dict[str, str]]:
    """What the studies need; their names; and, of experiments/, those that cannot be read, with the reason."""
    from orchestrator.resolving.catalogue import find_target, is_no_study, studies
    from orchestrator.resolving.keeping import digests_of

    found: set[str] = set()
    read: list[str] = []
    unreadable: dict[str, str] = {}
    for name in keep or studies():
        try:
            found |= digests_of(find_target(name), store)
            read.append(name)
        except Exception as error:
            if keep:
                raise
            if not is_no_study(error):
                unreadable[name] = f"{type(error).__name__}: {error}"
    return frozenset(found), read, unreadable


def _totals(found: Sequence[Garbage], folder: str) -> dict[str, int]:
    sizes = [item.size for item in found if item.folder == folder]
    return {"entries": len(sizes), "bytes": sum(sizes)}


def _show_garbage(found: Sequence[Garbage], output: Output) -> None:
    from orchestrator.storage.garbage import FOLDERS

    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("folder", "entries", "size"):
        grid.add_column(column, justify="left" if column == "folder" else "right")
    for folder in FOLDERS:
        totals = _totals(found, folder)
        if totals["entries"]:
            grid.add_row(folder, str(totals["entries"]), format_bytes(totals["bytes"]))
    if found:
        output.table(grid)
    artifacts = [item for item in found if item.folder == "artifacts"]
    for item in artifacts[:SHOWN]:
        output.say(f"  [dim]{item.name[:12]}[/dim] {format_bytes(item.size):>9}  {escape(item.label)}")
    if len(artifacts) > SHOWN:
        output.say(f"  and {len(artifacts) - SHOWN} more artifacts")
