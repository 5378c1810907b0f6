"""`lilora gc` and `lilora store`: what lies in a store, whether it is sound, copying it, removing what nobody needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from orchestrator.cli.console import Output
from orchestrator.errors import DamagedError, UserError
from orchestrator.formats import size
from orchestrator.resolving.catalogue import find_target, studies
from orchestrator.resolving.keeping import digests_of
from orchestrator.storage.copy import copy_artifacts
from orchestrator.storage.garbage import FOLDERS, Garbage, age, collect, garbage
from orchestrator.storage.opening import open_store
from orchestrator.storage.record import Record
from orchestrator.storage.store import Store

SHOWN = 20


def collect_garbage(store: Store, keep: Sequence[str], min_age: str, yes: bool, output: Output) -> int:
    """List what no study needs, with its size; with `yes`, remove it. Gives the exit code.

    Raises:
        UserError: a study that is named is wrong; or, with `yes`, one of experiments/ cannot be read, so that nobody
            knows what it needs.
    """
    seconds = age(min_age)
    with output.quiet():
        needed, read, unreadable = _needed(keep, store)
    for name, why in unreadable.items():
        output.say(f"[yellow]{escape(name)} cannot be read, so what it needs is not known: {escape(why)}[/yellow]")
    if yes and unreadable:
        raise UserError(
            f"nothing is removed while {', '.join(unreadable)} cannot be read: mend it, or name the studies to keep "
            "with --keep STUDY"
        )
    output.say(f"kept: what {len(read)} studies need ({escape(', '.join(read))}), and what is in use")
    found = collect(store, needed, seconds) if yes else garbage(store, needed, seconds)
    _show_garbage(found, output)
    total = sum(item.size for item in found)
    if yes:
        output.say(f"removed {len(found)} entries, {size(total)}")
    elif found:
        output.say(f"{len(found)} entries, {size(total)}, would be removed; nothing was. To do it: --yes")
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
    return 0


def _needed(keep: Sequence[str], store: Store) -> tuple[frozenset[str], list[str], dict[str, str]]:
    """What the studies need; their names; and, of experiments/, those that cannot be read, with the reason."""
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
            if not _is_no_study(error):
                unreadable[name] = f"{type(error).__name__}: {error}"
    return frozenset(found), read, unreadable


def _is_no_study(error: Exception) -> bool:
    """A file of experiments/ that has other things in it, as its helpers and manifests."""
    return isinstance(error, UserError) and " has no function " in str(error)


def _totals(found: Sequence[Garbage], folder: str) -> dict[str, int]:
    sizes = [item.size for item in found if item.folder == folder]
    return {"entries": len(sizes), "bytes": sum(sizes)}


def _show_garbage(found: Sequence[Garbage], output: Output) -> None:
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("folder", "entries", "size"):
        grid.add_column(column, justify="left" if column == "folder" else "right")
    for folder in FOLDERS:
        totals = _totals(found, folder)
        if totals["entries"]:
            grid.add_row(folder, str(totals["entries"]), size(totals["bytes"]))
    if found:
        output.table(grid)
    artifacts = [item for item in found if item.folder == "artifacts"]
    for item in artifacts[:SHOWN]:
        output.say(f"  [dim]{item.name[:12]}[/dim] {size(item.size):>9}  {escape(item.label)}")
    if len(artifacts) > SHOWN:
        output.say(f"  and {len(artifacts) - SHOWN} more artifacts")


def verify(store: Store, study: str | None, remove: bool, output: Output) -> int:
    """Check every byte of the store's artifacts, or of a study's; gives exit code 1 if one is damaged."""
    digests = sorted(store.digests() & digests_of(find_target(study), store) if study else store.digests())
    damaged: dict[str, tuple[str, ...]] = {}
    with Progress(console=output.errors, transient=True) as progress:
        task = progress.add_task("checking", total=len(digests))
        for digest in digests:
            problems = store.verify(digest)
            if problems:
                damaged[digest] = problems
            progress.advance(task)
    kept = {digest: str(store.set_aside(digest)) for digest in damaged if remove}
    for digest, problems in damaged.items():
        aside = f"; moved to {kept[digest]}" if digest in kept else ""
        output.say(f"[red]damaged[/red] {digest[:12]} {escape(_label(store, digest))}: {escape(problems[0] + aside)}")
    output.say(f"{len(digests)} artifacts checked, {len(damaged)} damaged")
    if damaged:
        remedy = "a run makes them again" if remove else "--remove sets them aside, and a run makes them again"
        output.say(remedy)
    output.finish(
        {
            "checked": len(digests),
            "damaged": {digest: list(problems) for digest, problems in damaged.items()},
            "set_aside": kept,
        }
    )
    return 1 if damaged else 0


def _label(store: Store, digest: str) -> str:
    try:
        return store.record(digest).label
    except DamagedError:
        return ""


def copy(store: Store, study: str, destination: str, output: Output) -> int:
    """Copy what is finished of a study to another store; gives exit code 1 if an artifact could not be copied."""
    target, other = find_target(study), open_store(destination)
    digests = digests_of(target, store)
    here = store.digests() & digests
    if not here:
        raise UserError(f"nothing of '{study}' is in the store {store.url}: run it first, or name its --store")
    with Progress(console=output.errors, transient=True) as progress:
        task = progress.add_task("copying", total=len(here))

        def tell(record: Record, now: bool) -> None:
            progress.update(task, advance=1, description=f"{'copied' if now else 'there'} {escape(record.label)}")

        done = copy_artifacts(store, other, digests, tell)
    for digest, why in done.damaged.items():
        output.say(f"[red]not copied[/red] {digest[:12]}: {escape(why)}")
    left = len(target.plan_in(store).missing(store))
    unfinished = f"; {left} steps of the study are not finished here" if left else ""
    output.say(
        f"{len(done.copied)} artifacts copied ({size(done.size)}), {len(done.there)} were there, "
        f"{len(done.damaged)} damaged{unfinished}"
    )
    output.say(f"to look at it there: lilora status {escape(study)} --store {escape(other.url)}")
    answer = {"copied": len(done.copied), "there": len(done.there), "bytes": done.size, "damaged": done.damaged}
    output.finish(answer | {"missing": left, "destination": other.url})
    return 1 if done.damaged else 0


def list_contents(store: Store, output: Output) -> None:
    """Number and size of the artifacts of each kind, and of what else lies there."""
    number: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for digest in store.digests():
        try:
            record = store.record(digest)
        except DamagedError:
            number["(unreadable)"] += 1
            continue
        kind = record.call.partition(":")[2]
        number[kind] += 1
        total[kind] += sum(entry.size for entry in record.files.values())
    other: dict[str, dict[str, int]] = {}
    for folder in FOLDERS[1:]:
        sizes = [entry.size for entry in store.inventory.entries(folder)]
        other[folder] = {"entries": len(sizes), "bytes": sum(sizes)}
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("kind", "artifacts", "size"):
        grid.add_column(column, justify="left" if column == "kind" else "right")
    for kind, count in sorted(number.items(), key=lambda item: -total[item[0]]):
        grid.add_row(kind, str(count), size(total[kind]))
    grid.add_row("all", str(sum(number.values())), size(sum(total.values())), style="bold")
    output.table(grid)
    rest = ", ".join(f"{folder} {item['entries']} ({size(item['bytes'])})" for folder, item in other.items())
    output.say(f"besides: {rest}; store: {escape(store.url)}")
    kinds: dict[str, Any] = {kind: {"artifacts": number[kind], "bytes": total[kind]} for kind in number}
    output.finish({"store": store.url, "kinds": kinds, **other})
