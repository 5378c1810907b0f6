"""The data that a trial is scored on, as MLflow's datasets: a task's split, by the digest of the step that made it."""

from __future__ import annotations

import json
from typing import Any

from orchestrator.planning.lowering import TrialPlan
from orchestrator.results.reading import ResultReader
from orchestrator.steps.step import Step

#: MLflow takes at most 36 characters; a digest is unique to people by its first twelve, as everywhere here.
DIGITS = 12
CONTEXT = "mlflow.data.context"


def scored_data(plan: TrialPlan, column: int) -> Step:
    """The step that made the data of a task."""
    return next(dict(predict.inputs)["data"] for (_, place), (predict, _) in plan.cells.items() if place == column)


def dataset_name(plan: TrialPlan, column: int) -> tuple[str, str]:
    """Name and digest of a task's split."""
    flat = plan.bound.parameters
    name = f"{flat['benchmark']} {plan.tasks[column]} {flat['split']}"
    return name, scored_data(plan, column).digest[:DIGITS]


def dataset_inputs(plan: TrialPlan, reader: ResultReader) -> list[Any]:
    """Of each task the split that is scored, with its rows, its most frequent answer and the checksum of its file."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    split, found = str(plan.bound.parameters["split"]), []
    for column in range(len(plan.tasks)):
        if not any(place == column for _, place in plan.cells):
            continue
        step = scored_data(plan, column)
        record = reader.record(step.digest)
        name, digest = dataset_name(plan, column)
        source: dict[str, Any] = {"step": step.digest, "label": step.label, "file": f"{split}.parquet"}
        profile: dict[str, Any] = {}
        if record is not None:
            entry = record.files.get(f"{split}.parquet")
            source |= {"sha256": entry.sha256} if entry else {}
            source |= {"made from": record.summary.get("sources", [])}
            profile = {"num_rows": record.summary.get("rows", {}).get(split)}
            profile |= {f"majority_{key}": value for key, value in record.summary.get("majority", {}).items()}
        dataset = Dataset(name, digest, "lilora", json.dumps(source), profile=json.dumps(profile))
        found.append(DatasetInput(dataset, [InputTag(CONTEXT, split)]))
    return found
