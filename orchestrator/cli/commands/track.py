"""`lilora track`: a study's MLflow runs, rebuilt from the store."""

from __future__ import annotations

import shlex

from rich.markup import escape

from orchestrator.cli.console import Output
from orchestrator.cli.options import STORE, AsJson, StoreFolder, StudyName, TrackingUri, open_store
from orchestrator.errors import UserError


def track(study: StudyName, store: StoreFolder = STORE, tracking: TrackingUri = None, json: AsJson = False) -> None:
    """Rebuild a study's MLflow runs from the store.

    The trials of a search or a sweep are runs of a study of their own, named after it.

    Example: lilora track quickstart --tracking http://127.0.0.1:5000
    """
    if tracking == "none":
        raise UserError(
            "'--tracking none' leaves nothing to do here: drop it to write mlflow.db in the store, or give MLflow's URI"
        )
    from orchestrator.resolving.catalogue import find_target
    from orchestrator.results.reading import ResultReader
    from orchestrator.tracking.listener import track as rebuild
    from orchestrator.tracking.place import default_uri

    output, place = Output(json), open_store(store)
    reader = ResultReader(place)
    resolved = find_target(study).resolve(place, reader)
    lowereds = [resolved.search] if resolved.search else []
    lowereds += [] if resolved.provisional else [resolved.table]
    with output.quiet():
        for lowered in lowereds:
            rebuild(lowered, reader, tracking)
    command = shlex.join(["lilora", "ui", "--store", str(place.root)])
    look = f"tracked at {escape(tracking)}" if tracking else f"to look: {escape(command)}"
    for lowered in lowereds:
        output.say(f"{escape(lowered.study.name)}: {look}")
    if resolved.provisional:
        output.say(f"the search is not finished, so there is no table to track yet: `lilora run {escape(study)}`")
    names = [lowered.study.name for lowered in lowereds]
    output.finish({"study": resolved.table.study.name, "tracked": names, "tracking": tracking or default_uri(place)})
