"""A search for trials across studies: by what they are, in all experiments of an MLflow tracking place.

What is found is MLflow's, to look at; results are read off the store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.errors import UserError
from orchestrator.tracking.experiment import open_client
from orchestrator.tracking.pages.first_page import search_page
from orchestrator.tracking.place import HOST, Page


def filter_of(parameters: Mapping[str, object]) -> str:
    """MLflow's filter for the trials that have these parameters, as in `{"method": "lilora", "method.rank": 16}`.

    Raises:
        UserError: a name or a value has a quote in it, which no filter of MLflow's can say.
    """
    if wrong := [f"{name}={value}" for name, value in parameters.items() if "`" in name or "'" in str(value)]:
        raise UserError(f"MLflow cannot search for {wrong[0]}: leave out what has a quote in it")
    conditions = [f"params.`{name}` = '{value}'" for name, value in parameters.items()]
    return " and ".join(["tags.kind = 'trial'", *conditions])


def find_trials(tracking_uri: str, parameters: Mapping[str, object]) -> list[Any]:
    """MLflow's runs of the trials that have these parameters, in all experiments, the best AP first.

    Args:
        tracking_uri: as `lilora track` takes it; of a store, `orchestrator.tracking.place.default_uri`.
        parameters: by name, as a run shows them: "method", "backbone", "seed", "method.rank", ...

    Raises:
        UserError: see `filter_of`.
    """
    client = open_client(tracking_uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found: list[Any] = []
    condition, token = filter_of(parameters), None
    while True:
        page = client.search_runs(
            experiments, condition, order_by=["metrics.AP DESC"], max_results=1000, page_token=token
        )
        found += page
        if not (token := page.token):
            return found


def found_page(pages: Sequence[Page], parameters: Mapping[str, object], port: int) -> str:
    """Address, on `lilora ui`, of the table of what `find_trials` finds in these studies."""
    return f"http://{HOST}:{port}{search_page([page.experiment for page in pages], filter_of(parameters))}"
