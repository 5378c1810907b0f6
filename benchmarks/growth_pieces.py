"""The parts of `growth.py` that plan, look up, read and judge: studies of synthetic tasks and trials, nothing trained.

A piece is made ready for a size in a process of its own, and gives what is then measured.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from lilora.backbones.tiny_llava import BACKBONE
from lilora.benchmarks import Benchmark, Stream, Task
from lilora.methods import Method
from lilora.methods.lilora import LiLoRA
from lilora.methods.seqlora import SeqLoRA
from lilora.training import Training
from orchestrator.planning.collector import collector_paused
from orchestrator.planning.lowering import SCHEDULES, Lowered, TrialPlan, lower
from orchestrator.planning.trial_steps import Memo, TrialSteps
from orchestrator.results.comparison.trials import diff
from orchestrator.results.reading import ResultReader
from orchestrator.results.table import metrics_after, table
from orchestrator.steps.step import Step
from orchestrator.storage.record import RECORD, FileEntry, Record
from orchestrator.storage.store import Store
from orchestrator.study import Study, Trial
from orchestrator.study.trial import BoundTrial, load_scorer

Call = Callable[[], Any]
#: Of the studies of many trials.
THREE = ("ScienceQA", "TextVQA", "Flickr30k")


def many_tasks(number: int, method: Method) -> BoundTrial:
    """A trial of so many tasks that are alike, in a benchmark that nobody builds."""
    tasks = tuple(Task(f"T{place:03}", "vqa", "short_answer", 6, 16, 0, 16) for place in range(number))
    benchmark = Benchmark("many", 1, tasks, "lilora.benchmarks.mini.build:rows")
    names = tuple(task.name for task in tasks)
    scorers = {name: load_scorer("short_answer") for name in names}
    return BoundTrial(Trial(method, BACKBONE, Stream("many", names)), benchmark, names, scorers, "", {"method": "one"})


def planned(bound: BoundTrial) -> Lowered:
    """Its steps, as `lower` makes them."""
    with collector_paused():
        plan = SCHEDULES[bound.trial.method.schedule](TrialSteps(bound, "one", Memo()), "one")
        lowered = Lowered(Study("one", (bound.trial,)), (plan,))
        assert lowered.plan.distinct
        return lowered


def many_trials(number: int) -> Lowered:
    """So many learning rates of SeqLoRA on three tasks."""
    rates = (1e-3 + 1e-6 * place for place in range(number))
    trials = tuple(
        Trial(SeqLoRA(), BACKBONE, Stream(tasks=THREE), Training(learning_rate=rate), seed=0) for rate in rates
    )
    lowered = lower(Study("many", trials))
    assert lowered.plan.distinct
    return lowered


def put(store: Store, step: Step, files: dict[str, bytes], references: tuple[str, ...] = ()) -> None:
    """An artifact as the store would have committed it, without its care for power cuts."""
    folder = store.path(step.digest)
    folder.mkdir(parents=True)
    entries = {}
    for name, content in files.items():
        (folder / name).write_bytes(content)
        entries[name] = FileEntry(hashlib.sha256(content).hexdigest(), len(content))
    inputs, now = {name: parent.digest for name, parent in step.inputs}, time.time()
    record = Record(
        step.digest, step.label, step.call, step.version, {}, inputs, references, entries, {"trainable": 1}, 0.1, now,
        now, {},
    )  # fmt: skip
    (folder / RECORD).write_text(record.to_json(), encoding="utf-8")


def put_stages(store: Store, plan: TrialPlan) -> None:
    """The states after each stage, each of which refers to all before it."""
    earlier: list[str] = []
    for stage in plan.stages:
        parts = {task: {"file": "none"} for task in plan.tasks[: len(earlier) + 1]}
        state = {"tasks": [*parts], "shared": {"file": "none"}, "parts": parts, "values": {}}
        put(store, stage, {"state.json": json.dumps(state).encode()}, tuple(earlier))
        earlier.append(stage.digest)


def put_scores(store: Store, plan: TrialPlan) -> None:
    """The scores of each cell."""
    for (row, column), (_, score) in plan.cells.items():
        main = 100.0 / (1 + row + column)
        said = {"main": main, "strict": main, "lenient": main, "following": main, "extra": {}, "by_type": {}}
        if not store.has(score.digest):
            put(store, score, {"scores.json": json.dumps(said).encode()})


def filled(folder: Path, lowered: Lowered, scores: bool = True) -> Store:
    """A store with the study's stages, and its scores."""
    store = Store(folder)
    (store.root / "artifacts").mkdir(parents=True)
    for plan in lowered.trials:
        put_stages(store, plan)
        if scores:
            put_scores(store, plan)
    return store


# Each is made ready for (size, folder).


def lowering_tasks(size: int, folder: Path) -> Call:
    return lambda: planned(many_tasks(size, SeqLoRA()))


def lowering_routed(size: int, folder: Path) -> Call:
    return lambda: planned(many_tasks(size, LiLoRA(route="nearest")))


def needs_tasks(size: int, folder: Path) -> Call:
    lowered = planned(many_tasks(size, LiLoRA()))
    store = filled(folder, lowered, scores=False)
    return lambda: lowered.plan.needs(store)


def reading_tasks(size: int, folder: Path) -> Call:
    lowered = planned(many_tasks(size, SeqLoRA()))
    store = filled(folder, lowered)
    return lambda: table(ResultReader(store).trials(lowered))


def rows_tasks(size: int, folder: Path) -> Call:
    """As MLflow's listener asks: of each row whether it is there, and what its figures are read off."""
    lowered = planned(many_tasks(size, SeqLoRA()))
    (result,) = ResultReader(filled(folder, lowered)).trials(lowered)

    def ask() -> None:
        fresh = replace(result, plan=replace(result.plan))
        assert all(fresh.has_row(row) and fresh.plan.scores_for(row) for row in range(size))

    return ask


def figures_tasks(size: int, folder: Path) -> Call:
    lowered = planned(many_tasks(size, SeqLoRA()))
    (result,) = ResultReader(filled(folder, lowered)).trials(lowered)
    return lambda: [metrics_after(result, row) for row in range(size)]


def lowering_trials(size: int, folder: Path) -> Call:
    return lambda: many_trials(size)


def needs_trials(size: int, folder: Path) -> Call:
    lowered = many_trials(size)
    store = filled(folder, lowered, scores=False)
    return lambda: lowered.plan.needs(store)


def reading_trials(size: int, folder: Path) -> Call:
    lowered = many_trials(size)
    store = filled(folder, lowered)
    return lambda: ResultReader(store).trials(lowered)


def table_trials(size: int, folder: Path) -> Call:
    lowered = many_trials(size)
    results = ResultReader(filled(folder, lowered)).trials(lowered)
    return lambda: table([replace(result) for result in results])


def scoring_items(size: int, folder: Path) -> Call:
    from benchmarks.comparing import answers_of, data_of
    from lilora import stages
    from lilora.core.stage_run import StageRun
    from lilora.stages.configs import ScoreConfig

    (folder / "out").mkdir(parents=True)
    (folder / "test.parquet").write_bytes(data_of("TextVQA", size))
    (folder / "predictions.parquet").write_bytes(answers_of("TextVQA", size, 3)[0])
    config = ScoreConfig("TextVQA", "short_answer", "vqa", "test")
    inputs = {"data": folder, "predictions": folder}
    return lambda: stages.score(config, inputs, folder / "out", StageRun(folder))


def items_store(size: int, folder: Path) -> tuple[Lowered, Store]:
    """Two trials of three tasks, of each of which all that is made is so many items."""
    from benchmarks.comparing import answers_of, data_of

    lowered, store = many_trials(2), Store(folder)
    (store.root / "artifacts").mkdir(parents=True)
    for task in THREE:
        made = [answers_of(task, size, variant) for variant in (3, 9)]
        for number, plan in enumerate(lowered.trials):
            predictions, items, said = made[number]
            for (_, column), (predict, score) in plan.cells.items():
                if plan.tasks[column] == task:
                    data = dict(predict.inputs)["data"]
                    if not store.has(data.digest):
                        put(store, data, {"test.parquet": data_of(task, size)})
                    put(store, predict, {"predictions.parquet": predictions})
                    put(store, score, {"items.parquet": items, "scores.json": json.dumps(said).encode()})
    for plan in lowered.trials:
        put_stages(store, plan)
    return lowered, store


def reading_items(size: int, folder: Path) -> Call:
    lowered, store = items_store(size, folder)

    def read() -> None:
        reader = ResultReader(store)
        assert len(reader.last_items(reader.trials(lowered))) == 2 * len(THREE)

    return read


def comparing_items(size: int, folder: Path) -> Call:
    lowered, store = items_store(size, folder)
    return lambda: diff(lowered.trials[0], lowered.trials[1], (lowered, lowered), ResultReader(store))
