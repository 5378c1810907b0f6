"""`lilora store verify`, `copy` and `ls`: a store's artifacts checked, copied to another store, and counted."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from orchestrator.cli.console import Output
from orchestrator.cli.options import STORE, AsJson, StoreFolder, StudyName, open_store
from orchestrator.errors import DamagedError, UserError
from orchestrator.formats import format_bytes

if TYPE_CHECKING:
    from orchestrator.storage.record import Record
    from orchestrator.storage.store import Store


def verify(
    study: Annotated[str | None, typer.Argument(metavar="[STUDY]", help="Its artifacts only.")] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Move damaged ones to the store's damaged/.")] = False,
    store: StoreFolder = STORE,
    json: AsJson = False,
) -> None:
    """Check the checksum of every file; exit code 1 if an artifact is damaged.

    Example: lilora store verify quickstart --remove
    """
    from rich.progress import Progress

    from orchestrator.resolving.catalogue import find_target
    from orchestrator.resolving.keeping import digests_of

    output, place = Output(json), open_store(store)
    digests = sorted(place.digests() & digests_of(find_target(study), place) if study else place.digests())
    damaged: dict[str, tuple[str, ...]] = {}
    with Progress(console=output.errors, transient=True) as progress:
        task = progress.add_task("checking", total=len(digests))
        for digest in digests:
            problems = place.problems(digest, "bytes")
            if problems:
                damaged[digest] = problems
            progress.advance(task)
    kept = {digest: str(place.set_aside(digest)) for digest in damaged if remove}
    for digest, problems in damaged.items():
        aside = f"; moved to {kept[digest]}" if digest in kept else ""
        output.say(f"[red]damaged[/red] {digest[:12]} {escape(_label(place, digest))}: {escape(problems[0] + aside)}")
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
    raise typer.Exit(1 if damaged else 0)


def _label(store: Store, digest: str) -> str:
    try:
        return store.record(digest).label
    except DamagedError:
        return ""


def copy(
    study: StudyName,
    destination: Annotated[str, typer.Argument(metavar="DESTINATION", help="A folder, or a URL such as s3://b/p.")],
    store: StoreFolder = STORE,
    json: AsJson = False,
) -> None:
    """Copy a study's artifacts, with what they refer to, to another store; again to go on.

    Exit code 1 if an artifact could not be copied.

    Example: lilora store copy quickstart s3://bucket/lilora
    """
    from rich.progress import Progress

    from orchestrator.resolving.catalogue import find_target
    from orchestrator.resolving.keeping import digests_of
    from orchestrator.storage.copy import copy_artifacts

    output, place, other, target = Output(json), open_store(store), open_store(destination), find_target(study)
    digests = digests_of(target, place)
    here = place.digests() & digests
    if not here:
        raise UserError(f"nothing of '{study}' is in the store {place.url}: run it first, or name its --store")
    with Progress(console=output.errors, transient=True) as progress:
        task = progress.add_task("copying", total=len(here))

        def tell(record: Record, now: bool) -> None:
            progress.update(task, advance=1, description=f"{'copied' if now else 'there'} {escape(record.label)}")

        done = copy_artifacts(place, other, digests, tell)
    for digest, why in done.damaged.items():
        output.say(f"[red]not copied[/red] {digest[:12]}: {escape(why)}")
    left = len(target.plan_in(place).missing(place))
    unfinished = f"; {left} steps of the study are not finished here" if left else ""
    output.say(
        f"{len(done.copied)} artifacts copied ({format_bytes(done.size)}), {len(done.there)} were there, "
        f"{len(done.damaged)} damaged{unfinished}"
    )
    command = shlex.join(["lilora", "status", study, "--store", other.url])
    output.say(f"to look at it there: {escape(command)}")
    answer = {"copied": len(done.copied), "there": len(done.there), "bytes": done.size, "damaged": done.damaged}
    output.finish(answer | {"missing": left, "destination": other.url})
    raise typer.Exit(1 if done.damaged else 0)


def ls(store: StoreFolder = STORE, json: AsJson = False) -> None:
    """How many artifacts of each kind there are, and how large they are.

    Example: lilora store ls --store /shared/lilora
    """
    from collections import Counter

    from orchestrator.storage.garbage import FOLDERS

    output, place = Output(json), open_store(store)
    number: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for digest in place.digests():
        try:
            record = place.record(digest)
        except DamagedError:
            number["(unreadable)"] += 1
            continue
        kind = record.call.partition(":")[2]
        number[kind] += 1
        total[kind] += sum(entry.size for entry in record.files.values())
    other: dict[str, dict[str, int]] = {}
    for folder in FOLDERS[1:]:
        sizes = [entry.size for entry in place.backend.entries(folder)]
        other[folder] = {"entries": len(sizes), "bytes": sum(sizes)}
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("kind", "artifacts", "size"):
        grid.add_column(column, justify="left" if column == "kind" else "right")
    for kind, count in sorted(number.items(), key=lambda item: -total[item[0]]):
        grid.add_row(kind, str(count), format_bytes(total[kind]))
    grid.add_row("all", str(sum(number.values())), format_bytes(sum(total.values())), style="bold")
    output.table(grid)
    rest = ", ".join(f"{folder} {item['entries']} ({format_bytes(item['bytes'])})" for folder, item in other.items())
    output.say(f"besides: {rest}; store: {escape(place.url)}")
    kinds: dict[str, Any] = {kind: {"artifacts": number[kind], "bytes": total[kind]} for kind in number}
    output.finish({"store": place.url, "kinds": kinds, **other})
