"""A study in MLflow: an experiment with a run per trial, a LoggedModel per stage, metrics over the stages; and one run
more for the study's own table and figures.

Runs and models are found again by their tags, and a stage that is tagged as written is not written again, unless by a
release that wrote less. Times are those of the results, not of the writing. No run is nested in another: the interface
hides those.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.planning.lowering import Lowered, TrialPlan
from orchestrator.report.blocks.panels import curves, stages
from orchestrator.report.figures import lines_file
from orchestrator.report.style import styles
from orchestrator.results.exports import table_csv
from orchestrator.results.reading import ResultReader, TrialResult
from orchestrator.results.routing import accuracy_of
from orchestrator.results.table import table
from orchestrator.storage.record import Record
from orchestrator.study.search import choice_json
from orchestrator.tracking.adapters import SEARCHABLE, AdapterWriter, own_accuracies
from orchestrator.tracking.datasets import dataset_inputs, dataset_name
from orchestrator.tracking.experiment import open_client, study_experiment
from orchestrator.tracking.measures import costs_of_row, metric_key, metrics_of_row
from orchestrator.tracking.pages.first_page import VIEW_TAG, shared_view
from orchestrator.tracking.pages.notes import NOTE_TAG, study_note, trial_note
from orchestrator.tracking.pages.origin import Origin
from orchestrator.tracking.pages.pictures import fitted, trial_pictures
from orchestrator.tracking.place import default_uri, files_uri, put_right

# MLflow takes at most 1000 metrics at once.
BATCH = 500
#: What a run holds; a run of an earlier release, without this, is written over.
LAYOUT_TAG, LAYOUT = "lilora.layout", "2"
PARENT_TAG = "mlflow.parentRunId"


class StudyWriter:
    """Writes one study to one MLflow tracking place.

    Attributes:
        lowered: the study.
        reader: of its results.
        experiment: MLflow's id of its experiment.
        parent: the run that holds its table and figures.
        adapters: writes its stages' adapters.
    """

    def __init__(
        self, lowered: Lowered, reader: ResultReader, tracking_uri: str | None = None, origin: Origin | None = None
    ) -> None:
        self.lowered, self.reader, self.store, self.origin = lowered, reader, reader.store, origin
        if tracking_uri is None:
            put_right(self.store)
        study = lowered.study
        self.client = open_client(tracking_uri or default_uri(self.store))
        self.experiment = study_experiment(self.client, study.name, None if tracking_uri else files_uri(self.store))
        self.adapters = AdapterWriter(self.client, self.experiment, study.name, self.store, origin)
        self.parent = self._run(
            f"{study.name}: table and figures", {"kind": "study", "study": study.name}, self._source(None), None
        )
        self._runs: dict[str, Any] = {}
        self._describe_study()

    def write_all(self, ended: str | None = None) -> None:
        """Every trial; one that is not complete gets the status `ended` where it is given."""
        for plan in self.lowered.trials:
            self.write_trial(plan, ended)

    def write_trial(self, plan: TrialPlan, ended: str | None = None) -> None:
        """What the store has of one trial and MLflow has not."""
        result = self.reader.trial(plan)
        run = self._trial_run(result)
        current = run.data.tags.get(LAYOUT_TAG) == LAYOUT
        written = {tag for tag in run.data.tags if tag.startswith("stage.") and current}
        fresh = False
        for row, after in enumerate(plan.after):
            tag = f"stage.{row + 1}"
            if tag in written or not result.has_row(row):
                continue
            if not fresh and not run.inputs.dataset_inputs:
                self.client.log_inputs(run.info.run_id, dataset_inputs(plan, self.reader))
            self._write_row(run, result, row)
            digest = plan.stages[row].digest if plan.stages else ""
            self.client.set_tag(run.info.run_id, tag, f"{after} {digest}".strip())
            run.data.tags[tag] = after
            fresh = True
        complete = result.num_missing == 0
        if fresh:
            self._describe(run, result, self._write_artifacts(run, result) if complete else {})
        status = "FINISHED" if complete else ended or "RUNNING"
        if plan.whole is not None:
            status = "KILLED"
        if run.info.status != status:
            self._set_status(run, status, plan)

    def write_study(self) -> None:
        """The table, what a search chose, the figures and the environments, on the parent run; and its status."""
        results = self.reader.study(self.lowered)
        rows = table(results.trials)
        looks = styles(rows)
        environments = {json.dumps(record.environment, sort_keys=True) for record in results.records.values()}
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "table.csv").write_text(table_csv(rows), encoding="utf-8")
            (folder / "environments.json").write_text(f"[{', '.join(sorted(environments))}]", encoding="utf-8")
            if choices := [choice_json(choice) for choice in self.lowered.study.choices]:
                (folder / "choices.json").write_text(json.dumps(choices, indent=1), encoding="utf-8")
            for file, panels in (("curves.png", curves(rows, looks)), ("stages.png", stages(rows, looks))):
                if any(panel.lines for panel in panels):
                    (folder / file).write_bytes(lines_file(panels, "png"))
            self.client.log_artifacts(self.parent.info.run_id, str(folder))
        self._describe_study()
        complete = all(result.num_missing == 0 for result in results.trials)
        status = "FINISHED" if complete else "KILLED"
        if self.parent.info.status != status:
            self.client.set_terminated(self.parent.info.run_id, status, _milliseconds(results.records.values()))

    def _describe_study(self) -> None:
        """The experiment's first page, and its note unless a user wrote one."""
        study = self.lowered.study
        tasks = dict.fromkeys(task for plan in self.lowered.trials for task in plan.tasks)
        wanted = {VIEW_TAG: shared_view(tuple(tasks))}
        tags = self.client.get_experiment(self.experiment).tags
        if NOTE_TAG not in tags:
            wanted[NOTE_TAG] = study_note(study.title, study.description, self.experiment)
        for key, value in wanted.items():
            if tags.get(key) != value:
                self.client.set_experiment_tag(self.experiment, key, value)

    def _run(self, name: str, tags: dict[str, str], more: dict[str, str], started: int | None) -> Any:
        """The run that has these tags, restored if it was deleted, or a new one."""
        from mlflow.entities import ViewType

        condition = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        found = self.client.search_runs([self.experiment], condition, run_view_type=ViewType.ALL, max_results=100)
        active = [run for run in found if run.info.lifecycle_stage == "active"]
        if active or not found:
            more = {**tags, **more, LAYOUT_TAG: LAYOUT}
            return active[0] if active else self.client.create_run(self.experiment, started, more, name)
        self.client.restore_run(found[0].info.run_id)
        return self.client.get_run(found[0].info.run_id)

    def _trial_run(self, result: TrialResult) -> Any:
        plan = result.plan
        if plan.digest in self._runs:
            return self._runs[plan.digest]
        flat = plan.bound.parameters
        tags = {key: str(flat[key]) for key in SEARCHABLE}
        tags |= {"group": plan.group, NOTE_TAG: trial_note(result, self.lowered.study.name, {})}
        tags |= self._source(result)
        started = [int(record.started * 1000) for record in result.stages if record]
        identity = {"kind": "trial", "study": self.lowered.study.name, "trial": plan.digest}
        run = self._run(plan.name, identity, tags, min(started, default=None))
        if not run.data.params:
            self._log_params(run.info.run_id, flat)
        self._runs[plan.digest] = run
        return run

    def _source(self, result: TrialResult | None) -> dict[str, str]:
        """The study's file, and the commit of the code that made the trial's last stage."""
        tags = {} if self.origin is None else {"mlflow.source.name": self.origin.file, "mlflow.source.type": "LOCAL"}
        known = [record for record in (result.stages if result else ()) if record]
        commit = known[-1].environment.get("git") if known else None
        return tags | ({"mlflow.source.git.commit": str(commit)} if commit else {})

    def _describe(self, run: Any, result: TrialResult, pictures: Mapping[str, str]) -> None:
        """What a trial's page says, once a stage was written; a run of an earlier release is now one of this."""
        wanted = {NOTE_TAG: trial_note(result, self.lowered.study.name, pictures), **self._source(result)}
        for key, value in {**wanted, LAYOUT_TAG: LAYOUT}.items():
            if run.data.tags.get(key) != value:
                self.client.set_tag(run.info.run_id, key, value)
                run.data.tags[key] = value
        if run.data.tags.pop(PARENT_TAG, None) is not None:
            self.client.delete_tag(run.info.run_id, PARENT_TAG)

    def _log_params(self, run_id: str, flat: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        self.client.log_batch(run_id, params=[Param(key, str(value)) for key, value in flat.items()])

    def _write_row(self, run: Any, result: TrialResult, row: int) -> None:
        """A stage's metrics, its training loss, and its adapter as a LoggedModel with its own scores."""
        from mlflow.entities import Metric

        plan = result.plan
        record = result.stages[row] if plan.stages else None
        columns = [column for place, column in plan.cells if place == row]
        scores = [self.reader.record(plan.cells[row, column][1].digest) for column in columns]
        when, step = _milliseconds(score for score in scores if score), plan.num_learned(row)
        model, ready = self.adapters.write(run.info.run_id, plan, row, record) if record else ("", True)
        own = {} if ready else own_accuracies(plan, row)
        metrics = []
        for name, value in metrics_of_row(result, row).items():
            # Of an adapter's own accuracies the model has them too, on their data.
            data = dataset_name(plan, own[name]) if name in own else (None, None)
            metrics.append(Metric(name, value, when, step, model if name in own else None, *data))
        routed = accuracy_of(plan, row, self.reader.record)
        metrics += [
            Metric(f"routing_accuracy.{metric_key(task)}", value, when, step)
            for task, value in routed.items()
            if value is not None
        ]
        costs = costs_of_row(plan, row, self.reader)
        metrics += [Metric(name, value, when, step) for name, value in costs.items()]
        if record:
            metrics += self._history(plan, row, record)
        for start in range(0, len(metrics), BATCH):
            self.client.log_batch(run.info.run_id, metrics=metrics[start : start + BATCH])
        if not ready:
            self.client.finalize_logged_model(model, "READY")

    def _history(self, plan: TrialPlan, row: int, record: Record) -> list[Any]:
        """Loss of the stage's steps, and the method's penalty where it has one."""
        from mlflow.entities import Metric

        path = self.store.fetch(record.digest) / "history.json"
        if not path.is_file():
            return []
        rows, task, when = (
            json.loads(path.read_text(encoding="utf-8")),
            metric_key(plan.tasks[row]),
            _milliseconds([record]),
        )
        names = [name for name in ("loss", "penalty") if any(step.get(name) for step in rows)]
        return [
            Metric(f"{name}.{row + 1} {task}", step[name], when, int(step["step"])) for step in rows for name in names
        ]

    def _write_artifacts(self, run: Any, result: TrialResult) -> dict[str, str]:
        """A complete trial's matrices as CSV and JSON, and pictures; gives title and address of those for its note."""
        pictures = trial_pictures(result)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for key, matrix in result.matrices.items():
                (folder / f"{metric_key(key).replace('extra_', '')}.csv").write_text(matrix.to_csv(), encoding="utf-8")
            content = {
                key: {"tasks": matrix.tasks, "after": matrix.after, "rows": matrix.rows}
                for key, matrix in result.matrices.items()
            }
            (folder / "matrices.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
            (folder / "note").mkdir()
            for file, picture in pictures.values():
                (folder / file).write_bytes(picture)
                (folder / "note" / file).write_bytes(fitted(picture))
            self.client.log_artifacts(run.info.run_id, str(folder), "matrix")
        # As the interface itself asks for it; a note's pictures are asked for from the same page.
        place = f"get-artifact?run_uuid={run.info.run_id}&path=matrix%2Fnote%2F"
        return {title: place + file for title, (file, _) in pictures.items()}

    def _set_status(self, run: Any, status: str, plan: TrialPlan) -> None:
        run_id = run.info.run_id
        if status == "RUNNING":
            self.client.update_run(run_id, status)
        else:
            records = (self.reader.record(score.digest) for _, score in plan.cells.values())
            self.client.set_terminated(run_id, status, _milliseconds(record for record in records if record))
        self._runs[plan.digest] = self.client.get_run(run_id)


def _milliseconds(records: Iterable[Record]) -> int:
    """When the last of the records was finished; now, without one."""
    return max((int(record.finished * 1000) for record in records), default=int(time.time() * 1000))
