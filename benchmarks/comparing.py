"""Comparisons over a store of many trials: two of them, all of them item by item, and two studies side by side.

A synthetic store is built first, in the format of a real one: SeqLoRA on the mini benchmark's six tasks, five
seeds of each of 200 learning rates, with data, answers and scores that are drawn, and no training. Then, each in a
process of its own and from files that were just written:

    diff      `lilora diff` of two trials of the study: figures, intervals over items and seeds, item by item
    became    of all trials, which items were right after their stage and wrong at the end, by kind of error
    compare   `lilora compare` of the study's first half with its second: 100 pairs of rows, 400 differences

What is set against the seconds wanted is the whole: the study is lowered first, as by the command (for two trials that
are named, their rows alone), and what lowering and reading take stands beside. Libraries are loaded before. Seconds
mean little on a shared machine, so processor time and the load are printed with them. The last line is JSON.

    python -m benchmarks.comparing                       # 1,000 trials; building them takes minutes and 2 GB
    python -m benchmarks.comparing --trials 50 --items 30
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars

from benchmarks.scale_tracking import commit
from lilora.core import registry
from lilora.data.columns import DRAWN, write_rows
from lilora.training import Training
from orchestrator.planning.by_name import lower_row
from orchestrator.planning.lowering import Lowered, lower
from orchestrator.results.answers.cases import became
from orchestrator.results.comparison.studies import compare
from orchestrator.results.comparison.trials import diff
from orchestrator.results.reading import ResultReader
from orchestrator.results.table import table
from orchestrator.steps.plan import Plan
from orchestrator.steps.step import Step
from orchestrator.storage.store import Store
from orchestrator.study import Study, Trial

WANTED_SECONDS = 5.0
#: Answers that are drawn from, for right ones and predictions alike; of another task's by chance.
WORDS = ("red", "blue", "two", "three", "yes", "no", "cat", "hammer", "B", "C")
#: Files of answers and scores that are made for a task; cells draw theirs from them.
VARIANTS = 20
SEEDS = 5


def asked_of(num_trials: int) -> Study:
    """So many trials of six tasks: seeds of learning rates."""
    method, backbone = registry.load("methods", "seqlora")(), registry.load("backbones", "tiny_llava")
    rates = [1e-3 + 1e-6 * place for place in range(-(-num_trials // SEEDS))]
    trials = (
        Trial(method, backbone, training=Training(learning_rate=rate), seed=seed)
        for rate in rates
        for seed in range(SEEDS)
    )
    return Study("many", tuple(trials)[:num_trials])


def study_of(num_trials: int) -> Lowered:
    """The same as steps."""
    return lower(asked_of(num_trials))


def rows_of(num_trials: int) -> tuple[Lowered, Lowered]:
    """The rows of the study's first and last trial, by their names, each looked for as `lilora diff` does."""
    study = asked_of(num_trials)
    rates = [f"learning_rate={study.trials[place].training.learning_rate}" for place in (0, -1)]
    ends = study.trials[0].seed, study.trials[-1].seed
    rows = [lower_row(study, f"seqlora {rate} seed {seed}") for rate, seed in zip(rates, ends, strict=True)]
    assert rows[0] is not None and rows[1] is not None, "a study of two rates, or more, has these names"
    return rows[0], rows[1]


def parquet(columns: Mapping[str, Any]) -> bytes:
    file = io.BytesIO()
    polars.DataFrame(columns).write_parquet(file)
    return file.getvalue()


def data_of(task: str, num_items: int) -> bytes:
    """A split in which item i's right answer is one of the task's own five words."""
    rows = [
        {"id": f"{task}-test-{item}", "instruction": f"What is number {item}?", "answer": answer_to(task, item),
         "references": [answer_to(task, item)], "type": ""}
        for item in range(num_items)
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "test.parquet"
        write_rows(rows, DRAWN, path)
        return path.read_bytes()


def answer_to(task: str, item: int) -> str:
    return WORDS[(sum(map(ord, task)) + item) % len(WORDS)]


def answers_of(task: str, num_items: int, variant: int) -> tuple[bytes, bytes, dict[str, Any]]:
    """Predictions, their items' scores and the cell's, where some tenths of the answers are drawn."""
    draw = random.Random(f"{task} {variant}")
    ids = [f"{task}-test-{item}" for item in range(num_items)]
    right = [answer_to(task, item) for item in range(num_items)]
    texts = [draw.choice(WORDS) if draw.random() < 0.1 + variant / 40 else text for text in right]
    scores = [float(text == answer) for text, answer in zip(texts, right, strict=True)]
    ones, main = [1.0] * num_items, 100 * sum(scores) / num_items
    predictions = parquet({"id": ids, "prediction": texts, "num_tokens": [1] * num_items})
    items = parquet({"id": ids, "main": scores, "strict": scores, "lenient": scores, "following": ones})
    said = {"main": main, "strict": main, "lenient": main, "following": 100.0, "extra": {}, "by_type": {}}
    return predictions, items, said | {"count": num_items}


def build(root: str, num_trials: int, num_items: int) -> Store:
    """The store, with a record for every step."""
    store, lowered = Store(root), study_of(num_trials)
    store.prepare()
    made = {
        (task, variant): answers_of(task, num_items, variant)
        for task in lowered.trials[0].tasks
        for variant in range(VARIANTS)
    }
    state = json.dumps({"tasks": [], "shared": {}, "parts": {}, "values": {}}).encode()

    def files_of(step: Step) -> tuple[dict[str, bytes], dict[str, Any]]:
        if step.kind == "build_task":
            return {"test.parquet": data_of(step.config.task, num_items)}, {}
        if step.kind == "train":
            return {"state.json": state}, {"trainable": 1}
        predict = dict(step.inputs).get("predictions", step)
        predictions, items, said = made[step.config.task, int(predict.digest[:6], 16) % VARIANTS]
        if step.kind == "predict":
            return {"predictions.parquet": predictions}, {}
        return {"items.parquet": items, "scores.json": json.dumps(said).encode()}, said

    for step in Plan.of(lowered.plan.results).steps:
        commit(store, step, *files_of(step))
    return store


def part_diff(store: Store, rows: tuple[Lowered, Lowered]) -> dict[str, Any]:
    found = diff(rows[0].trials[0], rows[1].trials[-1], rows, ResultReader(store))
    return {"items": found.items.height, "differ": found.items.filter(polars.col("who").str.contains("only")).height}


def part_became(store: Store, lowered: Lowered) -> dict[str, Any]:
    found = became(lowered.trials, store)
    return {"items": int(found["items"].sum()), "forgotten": int(found.filter(label="forgotten")["items"].sum())}


def part_compare(store: Store, lowered: Lowered) -> dict[str, Any]:
    reader, middle = ResultReader(store), len(lowered.trials) // SEEDS // 2 * SEEDS
    halves = {
        name: reader.trials(replace(lowered, trials=trials))
        for name, trials in (("first", lowered.trials[:middle]), ("second", lowered.trials[middle:]))
    }
    items = reader.last_items([result for results in halves.values() for result in results])
    found = compare({name: table(results) for name, results in halves.items()}, items)
    verdicts = Counter(each.verdict for each in found.differences)
    with_items = sum(each.items is not None for each in found.differences)
    return {"pairs": len(found.pairs), "verdicts": dict(verdicts), "intervals over items": with_items}


#: Of each part: how the study is lowered for it, and what is read and computed then.
PARTS: Mapping[str, tuple[Callable[[int], Any], Callable[[Store, Any], dict[str, Any]]]] = {
    "diff": (rows_of, part_diff), "became": (study_of, part_became), "compare": (study_of, part_compare),
}  # fmt: skip


def measured(name: str, root: str, num_trials: int) -> dict[str, Any]:
    """A part's seconds by the clock and of the processor, and what it found; libraries are loaded before."""
    import scipy.optimize  # noqa: F401
    import scipy.stats  # noqa: F401

    lowering, read = PARTS[name]
    started, processor = time.perf_counter(), time.process_time()
    lowered = lowering(num_trials)
    between, spent = time.perf_counter(), time.process_time()
    found = read(Store(root), lowered)
    ended, busy = time.perf_counter(), time.process_time()
    return {
        "seconds": ended - started, "lowering": between - started, "reading": ended - between,
        "processor": busy - processor, "processor lowering": spent - processor, "processor reading": busy - spent,
        "found": found,
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000, help="of the store (default: 1000)")
    parser.add_argument("--items", type=int, default=300, help="of each task (default: 300, as the mini benchmark's)")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), help="which (default: all)")
    parser.add_argument("--store", help="build it here and keep it, or use what was built here (default: a temporary)")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        root = chosen.store or temporary
        if not (Path(root) / "artifacts").exists():
            started = time.perf_counter()
            build(root, chosen.trials, chosen.items)
            print(f"a store of {chosen.trials} trials of six tasks, {chosen.items} items each, built in "
                  f"{time.perf_counter() - started:.0f} s", flush=True)  # fmt: skip
        answer: dict[str, Any] = {"trials": chosen.trials, "items": chosen.items, "wanted": WANTED_SECONDS}
        for name in chosen.parts:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                answer[name] = pool.apply(measured, (name, root, chosen.trials))
            said = answer[name]
            print(f"{name}: {said['seconds']:.2f} s ({said['processor']:.2f} s of processor time), "
                  f"{said['seconds'] / WANTED_SECONDS:.2f} of the {WANTED_SECONDS:.0f} s wanted; of them lowering "
                  f"{said['lowering']:.2f} ({said['processor lowering']:.2f}), reading {said['reading']:.2f} "
                  f"({said['processor reading']:.2f}); load {os.getloadavg()[0]:.1f}", flush=True)  # fmt: skip
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
