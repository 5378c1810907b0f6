"""Studies whose results are written by hand: small artifacts with real records and scores, and no training."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lilora.backbones import Backbone
from lilora.benchmarks import Stream
from lilora.methods.dirlora import DirLoRA
from lilora.methods.lilora import LiLoRA
from lilora.methods.seqlora import SeqLoRA
from lilora.methods.zeroshot import ZeroShot
from orchestrator.planning.lowering import Lowered
from orchestrator.steps.plan import Plan
from orchestrator.steps.step import Step
from orchestrator.storage.record import FileEntry, Record
from orchestrator.storage.store import Store
from orchestrator.study import Study, Trial
from orchestrator.study.trial import load_benchmark

BACKBONE = Backbone("fake", "0")
METHODS = (ZeroShot(), DirLoRA(), SeqLoRA(), LiLoRA(lam=1.0))
TYPES = {
    "ScienceQA": ("colour", "kind"),
    "GQA": ("relation", "count", "corner"),
    "VQAv2": ("colour", "shape", "yes/no"),
}
ENVIRONMENT = {
    "python": "3.11.2",
    "platform": "Linux",
    "packages": {"torch": "2.13.0", "ray": "2.60.0"},
    "threads": "1",
}

ALONE = -1
Score = Callable[[Any, str, int, int, int], float]


def fake_study(
    methods: tuple[Any, ...] = METHODS, seeds: tuple[int, ...] = (0,), tasks: tuple[str, ...] = (), name: str = "fake"
) -> Study:
    """A study on the mini benchmark's names; nothing of it is built."""
    trials = tuple(Trial(method, BACKBONE, Stream(tasks=tasks), seed=seed) for method in methods for seed in seeds)
    return Study(name, trials, "Forgetting on six tasks", "Results made by hand.")


def plausible(method: Any, task: str, row: int, column: int, seed: int) -> float:
    """A score like those of a real run: level for tasks alone, falling for a sequence."""
    base = {"ScienceQA": 72.0, "TextVQA": 70, "Flickr30k": 93, "ImageNet": 97, "GQA": 65, "VQAv2": 82}.get(task, 70.0)
    noise = int(hashlib.sha256(f"{method}{task}{row}{column}{seed}".encode()).hexdigest()[:4], 16) / 65535 * 5 - 2.5
    if isinstance(method, ZeroShot):
        return 25.0 if task == "Flickr30k" else 1.0
    if isinstance(method, DirLoRA):
        return base + noise
    kept = {SeqLoRA: 0.45, LiLoRA: 0.93}[type(method)] ** (row - column)
    return max(0.0, min(100.0, base * kept + noise))


def fill(lowered: Lowered, store: Store, score: Score = plausible, until: int | None = None) -> None:
    """Write artifacts for the plan's steps; with `until`, only for rows before that one.

    A task learned alone is scored as one of row `ALONE`.
    """
    (store.root / "artifacts").mkdir(parents=True, exist_ok=True)
    for trial in lowered.trials:
        asked = [(row, column, *trial.stages[row : row + 1], *pair) for (row, column), pair in trial.cells.items()]
        asked += [(ALONE, column, *steps) for column, steps in enumerate(trial.alone)]
        for task, (predict, score_step) in (*trial.bare.items(), *trial.unseen.items()):
            _write_step(store, predict)
            text = json.dumps(scores(score(ZeroShot(), task, 0, 0, 0), task))
            write_artifact(store, score_step, {"scores.json": text.encode()}, json.loads(text), 0.1)
        for row, column, *stages, predict, score_step in asked:
            if until is not None and (column if row == ALONE else row) >= until:
                continue
            for step in [*stages, predict]:
                for ancestor in Plan.of([step]).steps:
                    _write_step(store, ancestor)
            main = score(trial.trial.method, trial.tasks[column], row, column, trial.trial.seed)
            text = json.dumps(scores(main, trial.tasks[column]))
            write_artifact(store, score_step, {"scores.json": text.encode()}, json.loads(text), 0.1)


def scores(main: float, task: str = "") -> dict[str, Any]:
    """What a score step writes, around this main score."""
    lenient = main + (100 - main) * 0.4
    by_type = {
        name: {"main": max(0.0, min(100.0, main + 8 * place - 6)), "count": 100}
        for place, name in enumerate(TYPES.get(task, ()))
    }
    return {
        "main": main, "strict": main, "lenient": lenient, "following": min(100.0, main + 10),
        "extra": {"CIDEr": main * 5} if task == "Flickr30k" else {}, "by_type": by_type, "count": 300,
    }  # fmt: skip


def _write_step(store: Store, step: Step) -> None:
    if store.has(step.digest):
        return
    if step.kind == "build_task":
        benchmark = load_benchmark(step.config.benchmark)
        task = benchmark.task(step.config.task)
        wanted = benchmark.task_sources.get(task.name, ())
        summary = {
            "rows": {"train": task.train, "validation": task.validation, "test": task.test},
            "majority": {"answer": "A", "percent": 25.0},
            "sources": [vars(source) for source in benchmark.sources if source.package in wanted],
        }
        write_artifact(store, step, {"test.parquet": b"PAR1"}, summary, 4.0)
    elif step.kind == "train":
        rows = [{"step": at + 1, "loss": 3.0 / (at + 1), "penalty": 0.0, "rate": 1e-3} for at in range(20)]
        files = {**state_files(step), "history.json": json.dumps(rows).encode()}
        write_artifact(store, step, files, {"trainable": 1200, "steps": 250, "loss": 0.41}, 41.0)
    else:
        routed = step.kind == "predict" and step.config.task in step.config.candidates
        summary = {"routing_accuracy": routing_accuracy(step.config.task)} if routed else {}
        write_artifact(store, step, {"predictions.parquet": b"PAR1"}, summary, 1.5)


def routing_accuracy(task: str) -> float:
    """The percentage of a task's rows that find it, wherever one is looked for."""
    return 90.0 + len(task) / 2


def state_files(step: Step) -> dict[str, bytes]:
    """An adapter state: 1,000 shared numbers and 200 of the own task; earlier tasks' parts are referenced."""
    own = f"task-{step.config.task}.safetensors"
    parts: dict[str, dict[str, str]] = {step.config.task: {"file": own}}
    previous = dict(step.inputs).get("previous")
    while previous is not None:
        task = previous.config.task
        parts[task] = {"artifact": previous.digest, "file": f"task-{task}.safetensors"}
        previous = dict(previous.inputs).get("previous")
    state = {"tasks": sorted(parts), "shared": {"file": "shared.safetensors"}, "parts": parts, "values": {}}
    tensors = {"shared.safetensors": _tensor_file((10, 100)), own: _tensor_file((20, 10))}
    return {"state.json": json.dumps(state).encode(), **tensors}


def _tensor_file(shape: tuple[int, int]) -> bytes:
    size = 4 * shape[0] * shape[1]
    header = json.dumps({"x": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(size)


def write_artifact(store: Store, step: Step, files: dict[str, bytes], summary: dict[str, Any], seconds: float) -> None:
    """One finished artifact, as the store would have committed it."""
    folder = store.path(step.digest)
    if folder.exists():
        return
    folder.mkdir(parents=True)
    entries = {}
    for name, content in files.items():
        (folder / name).write_bytes(content)
        entries[name] = FileEntry(hashlib.sha256(content).hexdigest(), len(content))
    record = Record(
        step.digest, step.label, step.call, step.version, step.identity["config"],
        {name: parent.digest for name, parent in step.inputs}, (), entries, summary, seconds,
        1_795_000_000.0, 1_795_000_000.0 + seconds, ENVIRONMENT, {"host": "fake"},
    )  # fmt: skip
    (folder / "record.json").write_text(record.to_json())


def fake_store(root: Path, lowered: Lowered, **options: Any) -> Store:
    """A store at `root` that holds the study's results."""
    store = Store(root)
    fill(lowered, store, **options)
    return store


def count_opens(monkeypatch: pytest.MonkeyPatch) -> Counter[Path]:
    """How often each file is opened by its path from now on."""
    counts: Counter[Path] = Counter()
    whole, bare = Path.open, os.open

    def counting(path: Path, *arguments: Any, **options: Any) -> Any:
        counts[path] += 1
        return whole(path, *arguments, **options)

    def counting_bare(path: Any, *arguments: Any, **options: Any) -> int:
        counts[Path(path)] += 1
        return bare(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", counting)
    # How `lilora.core.files.read_file` reads.
    monkeypatch.setattr(os, "open", counting_bare)
    return counts
