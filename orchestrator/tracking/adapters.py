"""Each stage's adapter as MLflow's LoggedModel, with its accuracy on each task seen; the best of a study registered."""

from __future__ import annotations

import json
import re
from typing import Any

from orchestrator.errors import UserError
from orchestrator.planning.lowering import Lowered, TrialPlan
from orchestrator.results.reading import ResultReader, TrialResult
from orchestrator.results.table import metrics_after
from orchestrator.storage.record import Record
from orchestrator.storage.store import Store
from orchestrator.study.naming import method_name
from orchestrator.tracking.measures import accuracy_key
from orchestrator.tracking.pages.notes import NOTE_TAG, adapter_note
from orchestrator.tracking.pages.origin import Origin

VERSIONS_TAG = "mlflow.modelVersions"
SEARCHABLE = ("method", "backbone", "benchmark", "order", "instructions", "split", "seed")


class AdapterWriter:
    """Writes the adapters of one study into one experiment."""

    def __init__(self, client: Any, experiment: str, study: str, store: Store, origin: Origin | None) -> None:
        self.client, self.experiment, self.study, self.store, self.origin = client, experiment, study, store, origin

    def find(self, plan: TrialPlan, row: int) -> Any:
        """The LoggedModel of a stage; None where there is none."""
        condition = f"tags.trial = '{plan.digest}' AND tags.stage = '{row + 1}'"
        found = self.client.search_logged_models([self.experiment], filter_string=condition, max_results=1)
        return found[0] if found else None

    def write(self, run_id: str, plan: TrialPlan, row: int, record: Record) -> tuple[str, bool]:
        """Id of the stage's LoggedModel, with its parameters and files, and whether it was finalized before."""
        from mlflow.entities import LoggedModelOutput

        note = adapter_note(plan, row, self.study, self.origin)
        if (found := self.find(plan, row)) is not None:
            if found.tags.get(NOTE_TAG) != note:
                self.client.set_logged_model_tags(found.model_id, {NOTE_TAG: note})
            return str(found.model_id), str(found.status) == "READY"
        flat = plan.bound.parameters
        tags = {key: str(flat[key]) for key in SEARCHABLE}
        tags |= {"study": self.study, "trial": plan.digest, "stage": str(row + 1)}
        tags |= {"task": plan.tasks[row], "digest": record.digest, NOTE_TAG: note}
        model = self.client.create_logged_model(
            self.experiment,
            name=re.sub(r"[/:.%\"']", "_", f"{plan.name} stage {row + 1} {plan.tasks[row]}"),
            source_run_id=run_id,
            tags=tags,
            params={key: str(value) for key, value in flat.items()},
            model_type=f"{method_name(plan.trial.method)} adapter",
        )
        self.client.log_model_artifacts(model.model_id, str(self.store.fetch(record.digest)))
        self.client.log_outputs(run_id, [LoggedModelOutput(model.model_id, row + 1)])
        return str(model.model_id), False

    def register(self, best: TrialResult) -> tuple[str, str]:
        """Name and version of the registered model that the study's best adapter is; the same again adds none."""
        plan, row = best.plan, len(best.plan.after) - 1
        model = self.find(plan, row)
        name = re.sub(r"[/:]", "_", self.study)
        if not self.client.search_registered_models(f"name = '{name}'"):
            self.client.create_registered_model(name, description=f"Best adapters of the study {self.study}.")
        versions = self.client.search_model_versions(f"name = '{name}'")
        # What a search finds has no model's id, so a version is told by what it was made of.
        known = next((version for version in versions if version.tags.get("trial") == plan.digest), None)
        if known is None:
            ap = metrics_after(best)["AP"]
            said = f"{plan.name}: the best AP, {ap:.1f} on the {plan.trial.split} split, when it was registered."
            known = self.client.create_model_version(
                name,
                model.artifact_location,
                run_id=model.source_run_id,
                model_id=model.model_id,
                tags={"trial": plan.digest, "AP": f"{ap:.4f}"},
                await_creation_for=0,
            )
            note = adapter_note(plan, row, self.study, self.origin)
            self.client.update_model_version(name, known.version, f"{said}\n\n{note}")
            # A tracking server notes it by itself; a database does not, and the adapter's page would not say it.
            versions = json.dumps([{"name": name, "version": str(known.version)}])
            self.client.set_logged_model_tags(model.model_id, {VERSIONS_TAG: versions})
        self.client.set_registered_model_alias(name, "best", known.version)
        return name, str(known.version)


def best_adapter(results: tuple[TrialResult, ...], study: str) -> TrialResult:
    """The finished trial that learned in sequence and has the highest AP; of equal ones the first.

    Tasks learned alone leave an adapter each, and joint training meets no stream: neither is in question.

    Raises:
        UserError: none is finished.
    """
    finished = [
        (ap, result)
        for result in results
        if result.plan.trial.method.schedule == "sequential"
        and not result.num_missing
        and result.plan.whole is None
        and (ap := metrics_after(result)["AP"]) is not None
    ]
    if not finished:
        raise UserError(
            f"no trial of '{study}' that learns in sequence is finished, so there is no adapter to register"
        )
    return max(finished, key=lambda pair: pair[0])[1]


def own_accuracies(plan: TrialPlan, row: int) -> dict[str, int]:
    """Metrics in a row that its own stage made -> the task's column: all in a sequence, one of tasks learned alone."""
    stage = plan.stages[row].digest
    return {
        accuracy_key(plan.tasks[column]): column
        for place, column in plan.cells
        if place == row and any(step.digest == stage for _, step in plan.cells[row, column][0].inputs)
    }


def register_best(writer: AdapterWriter, lowered: Lowered, reader: ResultReader) -> tuple[str, str]:
    """Register the best adapter of a study that was tracked.

    Raises:
        UserError: no trial is finished.
    """
    return writer.register(best_adapter(reader.trials(lowered), lowered.study.name))
