"""Stores whose answers are written by hand and judged by the real scorers: data, predictions, items; no training."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lilora.data.columns import DRAWN, write_rows
from lilora.stages.scores import score
from orchestrator.planning.lowering import Lowered, TrialPlan
from orchestrator.storage.store import Store
from tests.orchestrator.fake_results import fill, write_artifact

#: Right answers of each task's items, in the order of the data.
RIGHT: Mapping[str, Sequence[str]] = {
    "ScienceQA": ("A", "B", "C", "D"),
    "GQA": ("two", "cat", "three", "cat"),
    "VQAv2": ("red", "yes", "no", "circle"),
    "TextVQA": ("12", "07", "99", "40"),
    "Flickr30k": (
        "A cat is on the snow.",
        "A dog is on the grass.",
        "A tent is in the water.",
        "A duck is on the road.",
    ),
    "ImageNet": ("horse", "hammer", "rose", "guitar"),
}
Answer = Callable[[TrialPlan, int, int, int], str]


def right(plan: TrialPlan, row: int, column: int, item: int) -> str:
    """The right answer to an item, whatever the trial and the stage."""
    return RIGHT[plan.tasks[column]][item]


def answer_store(root: Path, lowered: Lowered, answer: Answer, until: int | None = None) -> Store:
    """A store where each cell of each trial (before row `until`) holds what `answer(plan, row, column, item)` says."""
    store = Store(root)
    (store.root / "artifacts").mkdir(parents=True, exist_ok=True)
    for plan in lowered.trials:
        for (row, column), (predict, scored) in plan.cells.items():
            if until is not None and row >= until:
                continue
            task = plan.tasks[column]
            data = dict(predict.inputs)["data"]
            write_artifact(store, data, {"test.parquet": _data(task)}, {"rows": {"test": len(RIGHT[task])}}, 4.0)
            texts = [answer(plan, row, column, item) for item in range(len(RIGHT[task]))]
            write_artifact(store, predict, {"predictions.parquet": _predictions(task, texts)}, {}, 1.5)
            inputs = {"data": store.path(data.digest), "predictions": store.path(predict.digest)}
            with tempfile.TemporaryDirectory() as folder:
                summary = score(scored.config, inputs, Path(folder))
                files = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
            write_artifact(store, scored, files, summary, 0.1)
    fill(lowered, store, until=until)
    return store


def _data(task: str) -> bytes:
    rows: list[dict[str, Any]] = [
        {
            "id": f"{task}-{item}",
            "image": {"bytes": f"{task} {item}".encode(), "path": None},
            "instruction": f"What is number {item}?\nAnswer the question using a single word or phrase.",
            "answer": answer,
            "references": [answer],
            "type": "plain",
        }
        for item, answer in enumerate(RIGHT[task])
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "test.parquet"
        write_rows(rows, DRAWN, path)
        return path.read_bytes()


def _predictions(task: str, texts: Sequence[str]) -> bytes:
    import io

    import polars

    table = polars.DataFrame(
        {
            "id": [f"{task}-{item}" for item in range(len(texts))],
            "prediction": texts,
            "num_tokens": [1] * len(texts),
        }
    )
    file = io.BytesIO()
    table.write_parquet(file)
    return file.getvalue()
