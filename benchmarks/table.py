"""A table of methods through `lilora run`, against the same work as people run it: a script a stage and a cell.

The table is `table1_single` in miniature: zero-shot, DirLoRA, SeqLoRA, DoRA, EWC and LiLoRA, the weights of the last
two searched on validation data of the first two tasks. Ours is the command, on an empty store. Theirs is
`benchmarks.table_script` for each trial, search included: transformers' Trainer with PEFT where PEFT has the method,
each stage and each cell a process of its own, cells answered one item at a time. Two trials go on side by side, one
thread each, as `lilora run` has two slots. The data, which both need, are drawn before and are in neither side's time.

What each cause is worth is reckoned from seconds of this run. A chain leads from their processes' seconds to ours: a
stage and a cell that several trials ask for once; answers by our seconds of the same cells; no start of a process;
stages by our seconds. Between the last sum and our wall time lie the second core, and the orchestrator.

    python -m benchmarks.table                                                 # three tasks, half the rows
    python -m benchmarks.table --tasks TextVQA ImageNet --items 60 --steps 40  # six minutes on two cores
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from experiments._setting import RATE, SLOWER
from lilora.backbones.tiny_llava import BACKBONE
from lilora.benchmarks import Stream
from lilora.methods.dirlora import DirLoRA
from lilora.methods.dora import DoRA
from lilora.methods.ewc import EWC
from lilora.methods.lilora import LiLoRA
from lilora.methods.seqlora import SeqLoRA
from lilora.methods.zeroshot import ZeroShot
from lilora.training import Training
from orchestrator.execution.executor import execute_inline
from orchestrator.planning.lowering import TrialPlan
from orchestrator.resolving.resolve import resolve
from orchestrator.steps.plan import Plan
from orchestrator.steps.step import Step
from orchestrator.storage.store import Store
from orchestrator.study import Candidates, Search, Study, Trial

WANTED = 5.0
METHODS = (ZeroShot(), DirLoRA(), SeqLoRA(), DoRA(), EWC(), LiLoRA())
SEARCH = Search((Candidates("ewc", "method.weight", (1e3, 1e2)), Candidates("lilora", "method.lam", (0.1, 1.0))))
#: What PEFT and transformers' Trainer do without a line of one's own.
IN_PEFT = (ZeroShot, DirLoRA, SeqLoRA, DoRA)


def study_of(tasks: Sequence[str], items: int, steps: int) -> Study:
    """The table: so many rows of each split, so many steps a stage."""
    stream = Stream(tasks=tuple(tasks), limit=items)

    def training(method: Any) -> Training:
        rate = SLOWER.get(type(method), RATE)
        return Training(epochs=1e6, max_steps=steps, batch_size=8, learning_rate=rate)

    trials = tuple(Trial(method, BACKBONE, stream, training(method)) for method in METHODS)
    return Study("table", trials, search=SEARCH)


@dataclass(frozen=True)
class Process:
    """One process of theirs: the step that it stands for, and its seconds."""

    step: Step
    start: float
    work: float


@cache
def adapted() -> list[str]:
    """The layers that are adapted."""
    return sorted(BACKBONE.find_sites(BACKBONE.meta_model()))


def job_of(plan: TrialPlan, step: Step, folder: Path, store: Store) -> dict[str, Any]:
    """What `benchmarks.table_script` is to do in place of `step`."""
    trial, config = plan.trial, step.config
    method, inputs = trial.method, dict(step.inputs)
    is_stage = step in plan.stages
    job: dict[str, Any] = {
        "kind": "stage" if is_stage else "cell",
        "task": config.task,
        "seed": trial.seed,
        "out": str(folder / step.digest),
        "rows": str(store.fetch(inputs["data"].digest) / f"{'train' if is_stage else config.split}.parquet"),
        "steps": trial.training.max_steps,
        "batch": trial.training.batch_size,
        "rate": trial.training.learning_rate,
    }
    if not is_stage:
        job |= {"longest": config.max_new_tokens, "split": config.split}
    if isinstance(method, IN_PEFT):
        before = inputs.get("previous" if is_stage else "state")
        job |= {"location": str(BACKBONE.location), "state": str(folder / before.digest) if before else None}
        if isinstance(method, SeqLoRA | DirLoRA):
            job |= {"rank": method.rank, "alpha": method.lora_alpha, "sites": adapted()}
            job["dora"] = isinstance(method, DoRA)
        return job
    found = {
        name: str(store.fetch(parent.digest) if name.startswith("data") else folder / parent.digest)
        for name, parent in inputs.items()
    }
    name = type(method).__module__.rpartition(".")[2]
    job |= {"method": name, "values": asdict(method), "inputs": found, "folder": str(folder)}
    return job | ({"earlier": config.earlier} if is_stage else {})


def work_of(plan: TrialPlan) -> Iterator[Step]:
    """A trial's stages, each before its cells; once each: nobody asks twice for the cell of one adapter."""
    work = (step for step in plan.steps if step in plan.stages or step.call.endswith(":predict"))
    return iter({step.digest: step for step in work}.values())


def scripts(plan: TrialPlan, folder: Path, store: Store) -> list[Process]:
    """Do a trial as people do it."""
    done = []
    for step in work_of(plan):
        job = folder / f"{step.digest}.json"
        job.write_text(json.dumps(job_of(plan, step, folder, store)))
        started = time.perf_counter()
        command = [sys.executable, "-m", "benchmarks.table_script", str(job)]
        ended = subprocess.run(command, check=False, capture_output=True, text=True)
        if ended.returncode:
            raise RuntimeError(f"{step.label}: {ended.stderr[-2000:]}")
        work = json.loads(ended.stdout.splitlines()[-1])["work"]
        done.append(Process(step, time.perf_counter() - started - work, work))
    return done


def ours(root: Path, arguments: argparse.Namespace) -> float:
    """Seconds of `lilora run` on the store in `root`."""
    file = root / "study.py"
    values = f"{arguments.tasks!r}, {arguments.items}, {arguments.steps}"
    file.write_text(f"from benchmarks.table import study_of\n\n\ndef table():\n    return study_of({values})\n")
    command = [sys.executable, "-m", "orchestrator.cli", "run", f"{file}:table", "--store", str(root / "store")]
    started = time.perf_counter()
    ended = subprocess.run(
        [*command, "--slots", "2", "--tracking", "none"], check=False, capture_output=True, text=True
    )
    if ended.returncode:
        raise RuntimeError(ended.stderr[-2000:])
    return time.perf_counter() - started


def theirs(trials: Sequence[TrialPlan], root: Path, store: Store) -> tuple[float, list[Process]]:
    """Seconds of all scripts, two trials side by side, and each process."""

    def run(item: tuple[int, TrialPlan]) -> list[Process]:
        number, plan = item
        folder = root / f"trial-{number}"
        folder.mkdir()
        found = scripts(plan, folder, store)
        print(f"  theirs: {plan.name}, {len(found)} processes", flush=True)
        return found

    # Before the threads, which would import its libraries at once.
    adapted()
    started = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        found = [process for part in pool.map(run, enumerate(trials)) for process in part]
    return time.perf_counter() - started, found


def chain(processes: Sequence[Process], seconds: dict[str, float]) -> dict[str, float]:
    """Sums of processes' seconds, from theirs to ours, a cause at a time; `seconds` are ours, by digest."""
    once = list({process.step.digest: process for process in processes}.values())
    stages = [process for process in once if process.step.call.endswith(":train")]
    cells = [process for process in once if not process.step.call.endswith(":train")]

    def own(found: Sequence[Process]) -> float:
        return sum(seconds[process.step.digest] for process in found)

    return {
        "theirs": sum(process.start + process.work for process in processes),
        "each stage and cell once": sum(process.start + process.work for process in once),
        "answers merged, in batches": sum(item.start + item.work for item in stages)
        + sum(item.start for item in cells)
        + own(cells),
        "no process to start": sum(item.work for item in stages) + own(cells),
        "stages by our loop": own(once),
    }


def main() -> None:
    """Both sides, and the chain between them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=["ScienceQA", "TextVQA", "ImageNet"], help="two or more")
    parser.add_argument("--items", type=int, default=150, help="rows of each split (default: 150)")
    parser.add_argument("--steps", type=int, default=75, help="optimiser steps a stage (default: 75)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        store, study = Store(root / "store"), study_of(arguments.tasks, arguments.items, arguments.steps)
        data = [step for step in resolve(study).plan.steps if step.call.endswith(":build_task")]
        assert execute_inline(Plan.of(data), store).ok
        fast = ours(root, arguments)
        print(f"lilora run: {fast:.0f} s", flush=True)
        resolved = resolve(study, store)
        assert resolved.search is not None
        trials = (*resolved.search.trials, *resolved.known_table().trials)
        slow, processes = theirs(trials, root, store)
        seconds = {process.step.digest: store.record(process.step.digest).seconds for process in processes}
    ratio, sums = slow / fast, chain(processes, seconds)
    count = len({process.step.digest for process in processes})
    print(f"scripts: {slow:.0f} s, {len(processes)} processes for {count} different stages and cells")
    print(f"scripts / lilora run: {ratio:.1f}   (wanted: at least {WANTED:g})")
    before = sums["theirs"]
    for name, value in sums.items():
        less = "" if name == "theirs" else f", the line before is {before / value:.2f} times as much"
        print(f"  {name}: {value:.0f} s of processes{less}")
        before = value
    print(json.dumps({"ours": fast, "theirs": slow, "ratio": ratio, "chain": sums, "processes": len(processes)}))


if __name__ == "__main__":
    main()
