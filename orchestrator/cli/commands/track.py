"""`lilora track`: a study's MLflow runs, rebuilt from the store."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer
from rich.markup import escape

from orchestrator.cli.console import Output
from orchestrator.cli.options import STORE, AsJson, StoreFolder, StudyName, TrackingUri, open_store
from orchestrator.errors import UserError


def track(
    study: StudyName,
    store: StoreFolder = STORE,
    tracking: TrackingUri = None,
    register: Annotated[
        bool, typer.Option("--register", help="The adapter of the best AP as a version of a registered model.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Rebuild a study's MLflow runs from the store.

    The trials of a search or a sweep are runs of a study of their own, named after it. With --register the last adapter
    of the finished trial that learned in sequence and has the highest AP becomes a version, "best", of the registered
    model that is named after the study.

    Example: lilora track quickstart --tracking http://127.0.0.1:5000
    """
    if tracking == "none":
        raise UserError(
            "'--tracking none' leaves nothing to do here: drop it to write mlflow.db in the store, or give MLflow's URI"
        )
    from orchestrator.resolving.catalogue import find_target
    from orchestrator.results.reading import ResultReader
    from orchestrator.tracking.listener import track as rebuild
    from orchestrator.tracking.pages.origin import Origin
    from orchestrator.tracking.place import default_uri, pages_in

    output, place = Output(json), open_store(store)
    reader = ResultReader(place)
    target = find_target(study)
    resolved, origin = target.resolve(place, reader), Origin(study, target.file, target.name)
    lowereds = [resolved.search] if resolved.search else []
    lowereds += [] if resolved.provisional else [resolved.table]
    if register and resolved.provisional:
        raise UserError(f"the search is not finished, so there is no table's adapter to register: `lilora run {study}`")
    with output.quiet():
        done = [rebuild(one, reader, tracking, origin, register and one is resolved.table) for one in lowereds]
    command = shlex.join(["lilora", "ui", "--store", str(place.root)])
    look = f"tracked at {escape(tracking)}" if tracking else f"to look: {escape(command)}"
    for lowered in lowereds:
        output.say(f"{escape(lowered.study.name)}: {look}")
        for page in [] if tracking else pages_in(place):
            if page.study == lowered.study.name:
                output.say(f"  and then {escape(page.address)}")
    registered = done[-1].registered if register else None
    if registered is not None:
        output.say(f"registered: version {registered[1]} of the model '{escape(registered[0])}' is the best")
    if resolved.provisional:
        output.say(f"the search is not finished, so there is no table to track yet: `lilora run {escape(study)}`")
    names = [lowered.study.name for lowered in lowereds]
    answer = {"study": resolved.table.study.name, "tracked": names, "tracking": tracking or default_uri(place)}
    output.finish(answer | ({"registered": list(registered)} if registered else {}))
