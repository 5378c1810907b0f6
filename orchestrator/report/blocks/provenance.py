"""The end of the page: the data and their sources, each trial's steps, and what they were made with."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.planning.lowering import Lowered, TrialPlan
from orchestrator.results.exports import scorers_by_task
from orchestrator.results.reading import TrialResult
from orchestrator.storage.record import Record
from orchestrator.study.naming import method_name


def task_lines(lowered: Lowered, records: Mapping[str, Record]) -> list[dict[str, Any]]:
    """Each task's data: what it is, its sizes, the majority answer."""
    lines = []
    scorers = scorers_by_task(lowered.trials)
    benchmarks = {plan.bound.benchmark.name: plan.bound.benchmark for plan in lowered.trials}
    for step in lowered.plan.select(kind="build_task"):
        record = records.get(step.digest)
        task = benchmarks[step.config.benchmark].task(step.config.task)
        summary = record.summary if record else {}
        lines.append({
            "task": task, "scorers": scorers.get(task.name, [task.scorer]),
            "instructions": step.config.instructions, "benchmark": step.config.benchmark,
            "digest": step.digest, "rows": summary.get("rows", {}), "majority": summary.get("majority"),
        })  # fmt: skip
    return lines


def source_lines(lowered: Lowered, records: Mapping[str, Record]) -> list[dict[str, Any]]:
    """Packages that images and labels come from, with the tasks that use them."""
    merged: dict[str, dict[str, Any]] = {}
    for step in lowered.plan.select(kind="build_task"):
        record = records.get(step.digest)
        for source in record.summary.get("sources", ()) if record else ():
            entry = merged.setdefault(json.dumps(source, sort_keys=True), {**source, "tasks": []})
            if step.config.task not in entry["tasks"]:
                entry["tasks"].append(step.config.task)
    return list(merged.values())


def trial_block(result: TrialResult, records: Mapping[str, Record]) -> dict[str, Any]:
    """A trial's stages with their digests, times and notes, and its parameters."""
    plan = result.plan
    stages = [
        {"task": task, "step": step, "record": records.get(step.digest), "notes": _notes(records.get(step.digest))}
        for task, step in zip(plan.tasks, plan.stages, strict=False)
    ]
    done = plan.num_scores - result.num_missing
    scores = [
        (after, [digest_of_score(plan, row, column) for column in range(len(plan.tasks))])
        for row, after in enumerate(plan.after)
    ]
    return {
        "name": plan.name, "method": method_name(plan.trial.method), "digest": plan.digest, "stages": stages,
        "seed": plan.trial.seed, "seconds": result.seconds, "done": done, "cells": plan.num_scores,
        "tasks": plan.tasks, "scores": scores,
        "parameters": {key: value for key, value in plan.bound.parameters.items() if key not in ("method", "seed")},
    }  # fmt: skip


def digest_of_score(plan: TrialPlan, row: int, column: int) -> str:
    """The digest of a cell's score; "" where nothing is scored there."""
    pair = plan.cells.get((row, column))
    return pair[1].digest if pair else ""


def _notes(record: Record | None) -> str:
    """A stage's plain figures in one line."""
    if record is None:
        return "not finished"
    plain = {key: value for key, value in record.summary.items() if isinstance(value, int | float | str)}
    plain |= dict(_flat("", record.summary.get("mechanisms", {})))
    texts = {key: f"{value:.4g}" if isinstance(value, float) else str(value) for key, value in plain.items()}
    return ", ".join(f"{key} {text}" for key, text in texts.items())


def _flat(name: str, value: Any) -> Iterator[tuple[str, float]]:
    """The numbers in nested figures, by their names behind one another: "drift A"."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(f"{name} {key}".strip(), item)
    elif isinstance(value, int | float):
        yield name, value


def environment_lines(records: Mapping[str, Record]) -> list[dict[str, Any]]:
    """Each distinct environment, with the number of steps made in it."""
    known = [record.environment for record in records.values() if record.environment]
    counted = Counter(json.dumps(environment, sort_keys=True) for environment in known)
    return [{"steps": count, **json.loads(text)} for text, count in counted.most_common()]


def finished_at(records: Mapping[str, Record]) -> str:
    """When the last result was made; the page has no time of its own, so the same results give the same page."""
    latest = max((record.finished for record in records.values()), default=0.0)
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(latest)) if latest else ""
