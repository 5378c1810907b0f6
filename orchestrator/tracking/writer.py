"""A study in MLflow: a parent run, a run per trial, a LoggedModel per stage, metrics over the stages.

Runs and models are found again by their tags, and a stage that is tagged as written is not written again. Times are
those of the results, not of the writing.
"""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.planning.lowering import Lowered, TrialPlan
from orchestrator.report.blocks.panels import curves, stages
from orchestrator.report.figures import heat_map_png, lines_png
from orchestrator.report.style import styles
from orchestrator.results.exports import table_csv
from orchestrator.results.reading import ResultReader, TrialResult
from orchestrator.results.routing import accuracy_of
from orchestrator.results.table import metrics_after, table, unlearned_metrics
from orchestrator.storage.record import Record
from orchestrator.study.naming import method_name
from orchestrator.study.search import choice_json
from orchestrator.tracking.place import default_uri, files_uri, follow_move

SEARCHABLE = ("method", "backbone", "benchmark", "order", "instructions", "split", "seed")
# MLflow takes at most 1000 metrics at once.
BATCH = 500


def metrics_of_row(result: TrialResult, row: int) -> dict[str, float]:
    """The table's metrics after stage `row` (from 0), under names that MLflow takes, and the accuracy on each task.

    "AP_lenient" is the table's "AP lenient"; MAP after k stages is the mean of AP over them (LiLoRA, Eq. 9).
    """
    main = result.matrices["main"]
    found = {name.replace(" ", "_"): value for name, value in metrics_after(result, row).items()}
    found |= {f"accuracy.{_key(task)}": value for task, value in zip(main.tasks, main.rows[row], strict=True)}
    if row == len(main.rows) - 1:
        found |= unlearned_metrics(result)
        found |= {f"accuracy.{_key(task)}": value for task, value in (result.unseen_scores() or {}).items()}
    return {name: value for name, value in found.items() if value is not None}


def _key(name: str) -> str:
    """A name that MLflow takes as part of a metric's."""
    return re.sub(r"[^\w\-. ]", "_", name)


class StudyWriter:
    """Writes one study to one MLflow tracking place."""

    def __init__(self, lowered: Lowered, reader: ResultReader, tracking_uri: str | None = None) -> None:
        self.lowered, self.reader, self.store = lowered, reader, reader.store
        if tracking_uri is None:
            follow_move(self.store)
        self.client = _client(tracking_uri or default_uri(self.store))
        self.experiment = self._experiment(tracking_uri)
        self.parent = self._run(
            lowered.study.name,
            {"kind": "study", "study": lowered.study.name},
            {"mlflow.note.content": "\n\n".join(filter(None, (lowered.study.title, lowered.study.description)))},
            None,
        )
        self._runs: dict[str, Any] = {}

    def write_all(self, ended: str | None = None) -> None:
        """Every trial; one that is not complete gets the status `ended` where it is given."""
        for plan in self.lowered.trials:
            self.write_trial(plan, ended)

    def write_trial(self, plan: TrialPlan, ended: str | None = None) -> None:
        """What the store has of one trial and MLflow has not."""
        result = self.reader.trial(plan)
        run = self._trial_run(result)
        written = {tag for tag in run.data.tags if tag.startswith("stage.")}
        fresh = False
        for row, after in enumerate(plan.after):
            tag = f"stage.{row + 1}"
            if tag in written or not result.has_row(row):
                continue
            self._write_row(run, result, row)
            digest = plan.stages[row].digest if plan.stages else ""
            self.client.set_tag(run.info.run_id, tag, f"{after} {digest}".strip())
            run.data.tags[tag] = after
            fresh = True
        complete = result.num_missing == 0
        if complete and fresh:
            self._write_artifacts(run, result)
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
                    (folder / file).write_bytes(lines_png(panels))
            self.client.log_artifacts(self.parent.info.run_id, str(folder))
        complete = all(result.num_missing == 0 for result in results.trials)
        status = "FINISHED" if complete else "KILLED"
        if self.parent.info.status != status:
            self.client.set_terminated(self.parent.info.run_id, status, _milliseconds(results.records.values()))

    def _experiment(self, tracking_uri: str | None) -> str:
        name = self.lowered.study.name
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        location = None if tracking_uri else files_uri(self.store)
        # The UI opens an experiment of this kind in its view of training runs, not of chats.
        tags = {"mlflow.experimentKind": "custom_model_development"}
        return str(self.client.create_experiment(name, artifact_location=location, tags=tags))

    def _run(self, name: str, tags: dict[str, str], more: dict[str, str], started: int | None) -> Any:
        """The run that has these tags, or a new one."""
        condition = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        found = self.client.search_runs([self.experiment], filter_string=condition, max_results=1)
        if found:
            return found[0]
        return self.client.create_run(self.experiment, start_time=started, tags={**tags, **more}, run_name=name)

    def _trial_run(self, result: TrialResult) -> Any:
        plan = result.plan
        if plan.digest in self._runs:
            return self._runs[plan.digest]
        flat = plan.bound.parameters
        tags = {key: str(flat[key]) for key in SEARCHABLE}
        tags |= {"group": plan.group, "mlflow.parentRunId": self.parent.info.run_id}
        started = [int(record.started * 1000) for record in result.stages if record]
        identity = {"kind": "trial", "study": self.lowered.study.name, "trial": plan.digest}
        run = self._run(plan.name, identity, tags, min(started, default=None))
        if not run.data.params:
            self._log_params(run.info.run_id, flat)
        self._runs[plan.digest] = run
        return run

    def _log_params(self, run_id: str, flat: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        self.client.log_batch(run_id, params=[Param(key, str(value)) for key, value in flat.items()])

    def _write_row(self, run: Any, result: TrialResult, row: int) -> None:
        """A stage's metrics, its training loss, and its adapter as a LoggedModel with its own scores."""
        from mlflow.entities import Metric

        plan = result.plan
        record = result.stages[row] if plan.stages else None
        scores = [self.reader.record(plan.cells[row, column][1].digest) for column in _columns(plan, row)]
        when = _milliseconds(score for score in scores if score)
        model, ready = self._model(run, plan, row, record) if record else ("", True)
        own = _own_accuracies(plan, row) if model else set()
        metrics = [
            Metric(name, value, when, row + 1, model_id=model if name in own else None)
            for name, value in metrics_of_row(result, row).items()
        ]
        routed = accuracy_of(plan, row, self.reader.record)
        metrics += [
            Metric(f"routing_accuracy.{_key(task)}", value, when, row + 1)
            for task, value in routed.items()
            if value is not None
        ]
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
        rows, task, when = json.loads(path.read_text(encoding="utf-8")), _key(plan.tasks[row]), _milliseconds([record])
        names = [name for name in ("loss", "penalty") if any(step.get(name) for step in rows)]
        return [
            Metric(f"{name}.{row + 1} {task}", step[name], when, int(step["step"])) for step in rows for name in names
        ]

    def _model(self, run: Any, plan: TrialPlan, row: int, record: Record) -> tuple[str, bool]:
        """Id of the stage's LoggedModel, with its parameters and files, and whether it was finalized before."""
        from mlflow.entities import LoggedModelOutput

        condition = f"tags.trial = '{plan.digest}' AND tags.stage = '{row + 1}'"
        found = self.client.search_logged_models([self.experiment], filter_string=condition, max_results=1)
        if found:
            return str(found[0].model_id), str(found[0].status) == "READY"
        flat = plan.bound.parameters
        tags = {key: str(flat[key]) for key in SEARCHABLE}
        tags |= {"study": self.lowered.study.name, "trial": plan.digest, "stage": str(row + 1)}
        tags |= {"task": plan.tasks[row], "digest": record.digest}
        model = self.client.create_logged_model(
            self.experiment,
            name=re.sub(r"[/:.%\"']", "_", f"{plan.name} stage {row + 1} {plan.tasks[row]}"),
            source_run_id=run.info.run_id,
            tags=tags,
            params={key: str(value) for key, value in flat.items()},
            model_type=f"{method_name(plan.trial.method)} adapter",
        )
        self.client.log_model_artifacts(model.model_id, str(self.store.fetch(record.digest)))
        self.client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, row + 1)])
        return str(model.model_id), False

    def _write_artifacts(self, run: Any, result: TrialResult) -> None:
        """A complete trial's matrices as CSV and JSON, and a heat map."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for key, matrix in result.matrices.items():
                (folder / f"{_key(key).replace('extra_', '')}.csv").write_text(matrix.to_csv(), encoding="utf-8")
            content = {
                key: {"tasks": matrix.tasks, "after": matrix.after, "rows": matrix.rows}
                for key, matrix in result.matrices.items()
            }
            (folder / "matrices.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
            (folder / "matrix.png").write_bytes(heat_map_png(result.matrices["main"], result.plan.name))
            self.client.log_artifacts(run.info.run_id, str(folder), "matrix")

    def _set_status(self, run: Any, status: str, plan: TrialPlan) -> None:
        run_id = run.info.run_id
        if status == "RUNNING":
            self.client.update_run(run_id, status)
        else:
            records = (self.reader.record(score.digest) for _, score in plan.cells.values())
            self.client.set_terminated(run_id, status, _milliseconds(record for record in records if record))
        self._runs[plan.digest] = self.client.get_run(run_id)


def _columns(plan: TrialPlan, row: int) -> list[int]:
    return [column for place, column in plan.cells if place == row]


def _own_accuracies(plan: TrialPlan, row: int) -> set[str]:
    """Names of the metrics in a row that this row's stage made itself: all in a sequence, one where tasks are alone."""
    stage = plan.stages[row].digest
    return {
        f"accuracy.{_key(plan.tasks[column])}"
        for column in _columns(plan, row)
        if any(step.digest == stage for _, step in plan.cells[row, column][0].inputs)
    }


def _milliseconds(records: Iterable[Record]) -> int:
    """When the last of the records was finished; now, without one."""
    return max((int(record.finished * 1000) for record in records), default=int(time.time() * 1000))


def _client(uri: str) -> Any:
    """MLflow's client; its tables are made here, once. It is told to send nothing anywhere, and to keep quiet."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    from mlflow import MlflowClient

    for name in ("alembic", "mlflow", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.ERROR)
    client = MlflowClient(tracking_uri=uri)
    client.search_experiments(max_results=1)
    return client
