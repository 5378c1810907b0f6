"""`lilora why`: the parts of a step's digest, and the fields in which two steps differ."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from orchestrator.cli.console import Output
from orchestrator.cli.options import STORE, AsJson, StoreFolder, open_store
from orchestrator.errors import UserError

if TYPE_CHECKING:
    from lilora.core.identity import Json
    from orchestrator.steps.step import Step
    from orchestrator.storage.store import Store


def why(
    step: Annotated[str, typer.Argument(metavar="STEP", help="Its label, or the first digits of its digest.")],
    other: Annotated[str | None, typer.Argument(metavar="[STEP]", help="Another step, to see what differs.")] = None,
    study: Annotated[str | None, typer.Option(metavar="STUDY", help="Look in this study only.")] = None,
    store: StoreFolder = STORE,
    json: AsJson = False,
) -> None:
    """What a step's digest is made of; with two steps, what differs.

    Example: lilora why --study quickstart 'train seqlora 2/6 TextVQA, seed 0' 'train lilora 2/6 TextVQA, seed 0'
    """
    from rich.json import JSON

    from orchestrator.steps.explain import explain, explain_identities

    output, place = Output(json), open_store(store)
    a = find_step(step, study, place)
    if other is None:
        output.say(f"{escape(a.label)}\ndigest  {a.digest}\nstore   {_place(a, place)}\nmade of")
        output.say(JSON.from_data(a.identity, sort_keys=True))
        for name, label in a.input_labels.items():
            output.say(f"input '{name}' is {escape(label)}")
        output.finish({"digest": a.digest, "label": a.label, "identity": a.identity, "in_store": place.has(a.digest)})
        return
    b = find_step(other, study, place)
    differences = explain(a.step, b.step) if a.step and b.step else explain_identities(a.identity, b.identity)
    output.say(f"a  {a.digest[:12]}  {escape(a.label)}\nb  {b.digest[:12]}  {escape(b.label)}")
    if not differences:
        output.say("one and the same step")
    for item in differences:
        output.say(f"  {escape(item.path)}: [red]{escape(repr(item.a))}[/red] -> [green]{escape(repr(item.b))}[/green]")
    output.finish({"a": a.digest, "b": b.digest, "differences": [asdict(item) for item in differences]})


@dataclass(frozen=True)
class Known:
    """A step found by its name: the step itself if a study asks for it, else what the store's record says of it."""

    digest: str
    label: str
    identity: dict[str, Json]
    input_labels: dict[str, str]
    step: Step | None = None

    @classmethod
    def of_step(cls, step: Step) -> Known:
        """A step of a plan."""
        labels = {name: parent.label for name, parent in step.inputs}
        return cls(step.digest, step.label, step.identity, labels, step)

    @classmethod
    def of_record(cls, digest: str, store: Store) -> Known:
        """An artifact that no study here asks for."""
        record = store.record(digest)
        identity: dict[str, Json] = {"call": record.call, "config": record.config, "version": record.version}
        identity["inputs"] = dict(record.inputs)
        labels = {name: store.record(item).label for name, item in record.inputs.items() if store.has(item)}
        return cls(digest, record.label, identity, labels)


def _place(known: Known, store: Store) -> str:
    return escape(f"{store.url}/artifacts/{known.digest}") if store.has(known.digest) else "not there"


def find_step(name: str, study: str | None, store: Store) -> Known:
    """The step with this label or beginning of a digest, in the given study, any study, or the store.

    Raises:
        UserError: none, or more than one, is called so.
    """
    from orchestrator.resolving.catalogue import find_target, studies

    found: dict[str, Known] = {}
    places: dict[str, list[str]] = {}
    for candidate in [study] if study else studies():
        with contextlib.suppress(ValueError, TypeError, ImportError) if study is None else contextlib.nullcontext():
            # Where one study is meant, its plan says what is close to a name that it has not.
            for step in find_target(candidate).plan_in(store).find(name):
                found.setdefault(step.digest, Known.of_step(step))
                places.setdefault(step.digest, []).append(candidate)
    if len(name) >= 4:
        for digest in sorted(store.digests()):
            if digest.startswith(name) and digest not in found:
                found[digest] = Known.of_record(digest, store)
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        choices = "; ".join(
            f"{known.digest[:12]} ({known.label}; in {_some(places.get(known.digest, ['the store']))})"
            for known in list(found.values())[:6]
        )
        raise UserError(f"{len(found)} steps are called '{name}': use one of the digests {choices}")
    raise UserError(
        f"no step is called '{name}' in the store or in the studies {', '.join(studies()) or '(none)'}: "
        "give a step's label, the first digits of its digest (4 or more), or --study STUDY to look in one"
    )


def _some(names: Sequence[str]) -> str:
    """The first three names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
