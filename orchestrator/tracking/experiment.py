"""MLflow's client, and the experiment that holds a study: found by its tag, whatever it is called, and brought back
where it was deleted.
"""

from __future__ import annotations

import logging
import os
from typing import Any

from orchestrator.errors import UserError

STUDY_TAG, KIND_TAG = "lilora.study", "mlflow.experimentKind"
#: The interface opens an experiment of this kind in its mode for training, not in that for agents.
TRAINING = "custom_model_development"


def open_client(uri: str) -> Any:
    """MLflow's client; its tables are made here, once. It is told to send nothing anywhere, and to keep quiet."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    from mlflow import MlflowClient

    for name in ("alembic", "mlflow", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.ERROR)
    client = MlflowClient(tracking_uri=uri)
    client.search_experiments(max_results=1)
    return client


def study_experiment(client: Any, study: str, location: str | None) -> str:
    """Id of the study's experiment, which is made where there is none; its files lie at `location`.

    One that was renamed in the interface keeps its new name. One that was deleted there is restored, with its runs.

    Raises:
        UserError: the name is that of another study's experiment, which was renamed to it.
    """
    found = _tagged(client, study) or _named(client, study) or _renamed_before_tags(client, study)
    if found is None:
        tags = {KIND_TAG: TRAINING, STUDY_TAG: study}
        return str(client.create_experiment(study, artifact_location=location, tags=tags))
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    for key, value in {KIND_TAG: TRAINING, STUDY_TAG: study}.items():
        if found.tags.get(key) != value:
            client.set_experiment_tag(found.experiment_id, key, value)
    return str(found.experiment_id)


def find_experiment(client: Any, study: str) -> str | None:
    """Id of the study's experiment where there is one that is not deleted."""
    found = _tagged(client, study)
    return str(found.experiment_id) if found is not None and found.lifecycle_stage == "active" else None


def _tagged(client: Any, study: str) -> Any:
    found = _search(client, f"tags.`{STUDY_TAG}` = '{study}'")
    return next((one for one in found if one.lifecycle_stage == "active"), found[0] if found else None)


def _named(client: Any, study: str) -> Any:
    found = client.get_experiment_by_name(study)
    if found is not None and (other := found.tags.get(STUDY_TAG, study)) != study:
        raise UserError(
            f"MLflow's experiment '{study}' holds the study '{other}', and was renamed or deleted under this name: "
            f"rename it in MLflow's interface (experiment {found.experiment_id}), and track '{study}' again"
        )
    return found


def _renamed_before_tags(client: Any, study: str) -> Any:
    """The experiment of an earlier release, which had no tag, by the run that stands for the study."""
    from mlflow.entities import ViewType

    untagged = {one.experiment_id: one for one in _search(client, None) if STUDY_TAG not in one.tags}
    if not untagged:
        return None
    condition = f"tags.kind = 'study' and tags.study = '{study}'"
    runs = client.search_runs(list(untagged), condition, run_view_type=ViewType.ALL, max_results=1)
    return untagged[runs[0].info.experiment_id] if runs else None


def _search(client: Any, condition: str | None) -> list[Any]:
    from mlflow.entities import ViewType

    return list(client.search_experiments(view_type=ViewType.ALL, filter_string=condition, max_results=1000))
