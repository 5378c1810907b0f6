"""The data and models of a plan: files that are there, or declared sizes; what cannot be had is refused beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lilora.backbones import Backbone
from lilora.benchmarks import BuildConfig
from lilora.data.location import VARIABLE, find_benchmark, located, picture_folder
from orchestrator.errors import UserError
from orchestrator.steps.plan import Plan
from orchestrator.steps.step import Step
from orchestrator.study.trial import BoundTrial


def check_splits(bound: BoundTrial) -> None:
    """Refuse a trial that asks for rows that its benchmark does not have.

    Raises:
        ValueError: a task to be trained has test rows alone, or one to be scored on validation data sets none aside.
    """
    trial, benchmark = bound.trial, bound.benchmark
    benchmark.check_setting(trial.stream.instructions)
    for task in (benchmark.task(name) for name in bound.tasks):
        if task.files is None:
            continue
        if not task.files.train and trial.method.schedule != "none":
            raise ValueError(
                f"{benchmark.name} {task.name} has test rows alone: answer it zero-shot, or leave it out of the stream"
            )
        if trial.split == "validation" and (not task.files.train or not task.validation):
            raise ValueError(
                f"{benchmark.name} {task.name} has no validation data: score it on the test split, or say in its "
                "description how many training rows to set aside (validation = 500)"
            )


def require_data(missing: Sequence[Step]) -> None:
    """Refuse to run what reads files that are not there: `missing` is what a plan still takes, without what was read.

    Raises:
        ValueError: files of a benchmark are missing; the message says which, and how to get them.
    """
    for config in _absent([step.config for step in missing if step.kind == "build_task"]):
        benchmark = find_benchmark(config.benchmark)
        located(benchmark, benchmark.task(config.task), config.instructions)
        raise UserError(f"the data of '{config.benchmark}' have come since this was planned: run it again")


def pictures_here(artifact: Path) -> Path | None:
    """The folder that the pictures of a task's artifact lie in; None where it holds them, or the folder is not here."""
    try:
        return picture_folder(artifact)
    except ValueError:
        return None


def absent_backbones(missing: Sequence[Step]) -> list[Backbone]:
    """The models that the steps that a plan still takes load and that are not on this machine, each once."""
    used = [getattr(step.config, "backbone", None) for step in missing]
    models = {(model.location, model.revision): model for model in used if isinstance(model, Backbone)}
    return [model for model in models.values() if not model.is_here()]


def data_notes(plan: Plan) -> list[str]:
    """A sentence for each benchmark of which files are missing: what the plan counts with instead."""
    tasks: dict[str, list[str]] = {}
    for config in _absent([step.config for step in plan.steps if step.kind == "build_task"]):
        tasks.setdefault(config.benchmark, []).append(config.task)
    notes = []
    for name, missing in tasks.items():
        benchmark = find_benchmark(name)
        source = f" ({benchmark.sizes})" if benchmark.sizes else ""
        notes.append(
            f"not in ${VARIABLE}/{name}: {', '.join(dict.fromkeys(missing))}. Sizes are declared ones{source}, and the "
            "steps' digests will be others once the files are there"
        )
    return notes


def _absent(configs: list[BuildConfig]) -> list[BuildConfig]:
    """Those of data in files whose files were not there when they were planned."""
    return [
        config
        for config in configs
        if not config.files and find_benchmark(config.benchmark).task(config.task).files is not None
    ]
