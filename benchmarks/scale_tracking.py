"""The part of `scale.py` that feeds one MLflow from many trials at once, and reads everything back."""

from __future__ import annotations

import json
import math
import random
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from lilora.benchmarks import Stream
from lilora.core import registry
from orchestrator.execution import events
from orchestrator.execution.events import Outcome
from orchestrator.planning.lowering import Lowered, TrialPlan, lower
from orchestrator.results.reading import ResultReader
from orchestrator.steps.plan import Plan
from orchestrator.steps.step import Step
from orchestrator.storage.record import Record, environment
from orchestrator.storage.store import Store
from orchestrator.study import Study, Trial
from orchestrator.study.trial import trial_tasks


def commit(store: Store, step: Step, files: Mapping[str, bytes], summary: Mapping[str, Any]) -> Record:
    """Write one artifact as a worker would."""
    staged = store.stage(step.digest)
    for name, content in files.items():
        (staged / name).write_bytes(content)
    now = time.time()
    return store.commit(
        staged,
        lambda entries, references: Record(
            step.digest, step.label, step.call, step.version, step.identity["config"],
            {name: parent.digest for name, parent in step.inputs}, references, entries, dict(summary), 0.1, now, now,
            environment(),
        ),
    )  # fmt: skip


def made_up(step: Step) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Files and summary of a step whose numbers come from its digest."""
    draw = random.Random(step.digest)
    if step.kind == "train":
        rows = [{"step": at + 1, "loss": draw.random(), "penalty": 0.0, "rate": 1e-3} for at in range(20)]
        state = {"tasks": [], "shared": {}, "parts": {}, "values": {}}
        return {"history.json": json.dumps(rows).encode(), "state.json": json.dumps(state).encode()}, {"trainable": 1}
    if step.kind != "score":
        return {"rows.txt": step.digest.encode()}, {}
    main = draw.uniform(0, 100)
    scores = {"main": main, "strict": main, "lenient": main, "following": main, "extra": {}, "by_type": {}}
    return {"scores.json": json.dumps(scores).encode()}, scores


def feed(trial: TrialPlan, store: Store, listener: Callable[[events.Event], None]) -> None:
    """One trial as it runs: each stage, its cells, and an event for each, as soon as they are in the store."""
    for step in trial.steps:
        for needed in Plan.of([step]).steps:
            if not store.has(needed.digest):
                listener(events.StepFinished(needed, commit(store, needed, *made_up(needed))))


def tracking_study(num_trials: int, num_tasks: int) -> Study:
    """As many trials as seeds: they share their data and nothing else."""
    method, backbone = registry.load("methods", "seqlora")(), registry.load("backbones", "tiny_llava")
    stream = Stream(tasks=trial_tasks(Trial(method, backbone))[:num_tasks])
    trials = (Trial(method, backbone, stream, seed=seed) for seed in range(num_trials))
    return Study("tracked", tuple(trials))


def lost_metrics(lowered: Lowered, store: Store, uri: str) -> tuple[int, int]:
    """How many values the store says there are, and how many of them MLflow has not, or has otherwise."""
    from mlflow import MlflowClient

    from orchestrator.tracking.measures import metrics_of_row

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(lowered.study.name)
    assert experiment is not None
    runs = {run.data.tags.get("trial"): run for run in client.search_runs([experiment.experiment_id], max_results=1000)}
    wanted = missing = 0
    reader = ResultReader(store)
    for trial in lowered.trials:
        result, run = reader.trial(trial), runs.get(trial.digest)
        expected: dict[str, dict[int, float]] = {}
        for row in range(len(trial.after)):
            for name, value in metrics_of_row(result, row).items():
                expected.setdefault(name, {})[row + 1] = value
        for name, values in expected.items():
            wanted += len(values)
            found = client.get_metric_history(run.info.run_id, name) if run else []
            have = {metric.step: metric.value for metric in found}
            missing += sum(not math.isclose(have.get(at, math.nan), value) for at, value in values.items())
    return wanted, missing


def tracking_part(num_trials: int, num_tasks: int) -> tuple[int, int]:
    """Feed one tracker from as many threads as there are trials, and read back what arrived."""
    from orchestrator.tracking.listener import Tracker

    lowered = lower(tracking_study(num_trials, num_tasks))
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        store.prepare()
        uri = f"sqlite:///{folder}/mlflow.db"
        tracker = Tracker(lowered, ResultReader(store), uri)
        plan = lowered.plan
        # What all trials share is there before they start.
        for step in plan.select(kind="build_task"):
            commit(store, step, *made_up(step))
        started = time.perf_counter()
        tracker(events.RunStarted(plan.requested, plan.distinct, 0, plan.steps))
        with ThreadPoolExecutor(num_trials) as pool:
            list(pool.map(lambda trial: feed(trial, store, tracker), lowered.trials))
        fed = time.perf_counter() - started
        tracker(events.RunFinished(Outcome(plan.requested, plan.distinct, 0, plan.distinct)))
        taken = time.perf_counter() - started
        if tracker.error:
            raise tracker.error
        wanted, missing = lost_metrics(lowered, store, uri)
    print(f"tracking: {num_trials} trials of {num_tasks} tasks at once: {wanted} values, {missing} lost")
    print(f"  results made in {fed:.1f} s, written to MLflow in {taken:.1f} s: {wanted / taken:.0f} values a second")
    return wanted, missing
