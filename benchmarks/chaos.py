"""A sweep whose processes are killed, one kind after another, against the same sweep left in peace.

Two Ray nodes on this machine (`benchmarks/nodes.py`), eight trials (two methods, two ranks, two orders of two tasks),
each training stage by two DeepSpeed workers (ZeRO-2, gloo), one on each node. Killed with SIGKILL, each in the middle
of its work: a training worker, a whole node (another is added), a trial, the driver (the same command is run again),
an evaluation actor. In the end every accuracy matrix must be that of the sweep left in peace, no step may have been
made twice, and no process may be left. Writes what happened as a table to benchmarks/results/chaos.md.

    python -m benchmarks.chaos                        # a quarter of an hour or more on two cores
    python -m benchmarks.chaos --only worker node     # some of it; writes nothing
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.blows import BLOWS, Blow, Sight, title, wait_for
from benchmarks.nodes import Cluster, cluster, marked
from lilora.backbones.tiny_llava import BACKBONE
from lilora.benchmarks import Stream
from lilora.methods.lilora import LiLoRA
from lilora.methods.seqlora import SeqLoRA
from lilora.training import Training
from orchestrator.execution import journal
from orchestrator.resolving.swept import lower_sweep
from orchestrator.steps.step import Resources, Step
from orchestrator.storage.store import Store
from orchestrator.study import Axis, Study, Sweep, Trial

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).with_name("results") / "chaos.md"
TASKS = ("TextVQA", "VQAv2")
STEPS = 60
CHECKPOINT_SECONDS = 2.0
#: Limits on waiting for the moment to strike, for what was struck to be made good, and for a sweep.
MOMENT_SECONDS, MEND_SECONDS, SWEEP_SECONDS = 1200.0, 900.0, 3600.0
#: What Ray itself keeps on a cluster after a driver is gone: processes without work, its agents, one actor of Train's.
KEPT_BY_RAY = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent", "ray::_AutoscalingCoordinatorActor")


def study() -> Study:
    """Eight trials, sixteen training stages of two workers."""
    base = Trial(
        SeqLoRA(),
        BACKBONE,
        Stream("mini", TASKS),
        Training(max_steps=STEPS),
        resources=Resources(workers=2, strategy="zero2", spread=True),
    )
    axes = (
        Axis("method", (SeqLoRA(), LiLoRA())),
        Axis("method.rank", (4, 8)),
        Axis("stream.tasks", (TASKS, TASKS[::-1])),
    )
    return Study("chaos", (), sweep=Sweep(base, axes, protocol="end-of-stream"))


def steps() -> tuple[Step, ...]:
    """Every step of the sweep."""
    return lower_sweep(study()).lowered.plan.steps


def drive(address: str, root: Path) -> None:
    """Run the sweep on the cluster; the last line says how it ended."""
    from rich.console import Console

    from orchestrator.cli.progress import Progress
    from orchestrator.results.reading import read_results
    from orchestrator.sweeps.runner import execute_sweep

    store = Store(root)
    with Progress(Console(width=200)) as progress:
        done = execute_sweep(
            study(), store, address=address, listeners=[progress], checkpoint_seconds=CHECKPOINT_SECONDS
        )
    results = read_results(done.swept.lowered, store).trials
    outcome = done.outcome
    matrices = {result.plan.name: result.matrices["main"].rows for result in results}
    counts = {name: getattr(outcome, name) for name in ("requested", "distinct", "reused", "run", "failed", "blocked")}
    print(json.dumps({"ok": outcome.ok and not done.failed, "counts": counts, "matrices": matrices}), flush=True)


@dataclass
class Driver:
    """The driver as a process of its own, in a process group of its own; its output goes to a file."""

    place: Cluster
    root: Path
    process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.log = self.root.with_suffix(".log")
        self.start()

    def start(self) -> None:
        """Run the command."""
        command = [sys.executable, "-m", "benchmarks.chaos", "--drive", self.place.address, str(self.root)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env=self.place.environment, cwd=ROOT, process_group=0
            )

    def kill(self) -> None:
        """SIGKILL to it and all that it started itself."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def told(self, num_lines: int) -> str:
        """The last lines of its output."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-num_lines:])

    def finish(self) -> dict[str, Any]:
        """Wait for the end; what it printed last."""
        code = self.process.wait(SWEEP_SECONDS)
        assert code == 0, f"the driver failed:\n{self.told(30)}"
        answer: dict[str, Any] = json.loads(self.told(1))
        assert answer["ok"], answer
        return answer


def strike(place: Cluster, root: Path, names: list[str]) -> tuple[list[Blow], dict[str, Any], float]:
    """The sweep under all blows: what was struck, how it ended, how long it took."""
    began, blows = time.time(), []
    driver, sight = Driver(place, root), Sight(place, Store(root), steps())

    def while_it_runs(check: Callable[[], Any]) -> Any:
        ended = driver.process.poll() is not None
        found = check()
        assert found or not ended, f"the driver has ended:\n{driver.told(30)}"
        return found

    try:
        for name in names:
            struck, good = wait_for(
                partial(while_it_runs, partial(BLOWS[name], sight, driver)), MOMENT_SECONDS, f"no moment for '{name}'"
            )
            print(f"{struck.at - began:6.1f} s: {struck.what} ({struck.moment})", flush=True)
            wait_for(partial(while_it_runs, good), MEND_SECONDS, f"'{name}' is not made good")
            struck.seconds = time.time() - struck.at
            print(f"        made good after {struck.seconds:.1f} s", flush=True)
            blows.append(struck)
        answer = driver.finish()
    finally:
        if driver.process.poll() is None:
            driver.kill()
    return blows, answer, time.time() - began


def hear(blows: list[Blow], root: Path) -> None:
    """Add to each blow what the store's journal says of it, up to the next one."""
    lines = list(journal.read(root))
    ends = [struck.at for struck in blows[1:]] + [float("inf")]
    for struck, end in zip(blows, ends, strict=True):
        told = [line for line in lines if struck.at <= line["time"] < end]
        said = [f"{line['what']} {line['label']}: {line['why']}" for line in told if "retried" in line["what"]]
        said += [f"{line['what']}: {line['why']}" for line in told if line["what"] == "machines awaited"]
        said += [
            f"run started again: {line['reused']} reused, {line['steps']} to run"
            for line in told
            if line["what"] == "run started"
        ]
        said += [f"{line['label']} went on from step {line['from']}" for line in told if line.get("from")]
        struck.said = "; ".join(said) or "nothing: it is told in the driver's log"


def made_twice(root: Path) -> list[str]:
    """Labels of steps that were made more than once, by the journal."""
    made = Counter(line["label"] for line in journal.read(root) if line["what"] in ("made", "made again"))
    again = [line["label"] for line in journal.read(root) if line["what"] == "made again"]
    digests = Counter(line["digest"] for line in journal.read(root) if line["what"] == "made")
    return again if made and max(digests.values()) == 1 else sorted(made)


def same_bytes(one: Path, other: Path) -> tuple[int, int]:
    """Of the training stages, how many have the same files in both stores; and how many there are."""
    stages = [step for step in steps() if step.kind == "train"]
    same = [Store(one).record(step.digest).files == Store(other).record(step.digest).files for step in stages]
    return sum(same), len(same)


def left_over(sight: Sight) -> list[str]:
    """What of a sweep still runs on the cluster a minute after its driver has ended."""
    deadline = time.monotonic() + 60
    while True:
        names = [title(process) for process in sight.titled("ray::")]
        left = [name for name in names if name and not name.startswith(KEPT_BY_RAY)]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(1)


def table(blows: list[Blow], began: float) -> list[str]:
    """Markdown."""
    lines = [
        "| killed | when | what the executor said and did | seconds until it was there again |",
        "|---|---|---|---|",
    ]
    for item in blows:
        lines.append(f"| {item.what} | {item.at - began:.0f} s: {item.moment} | {item.said} | {item.seconds:.0f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=sorted(BLOWS), help="these blows, in this order; writes no table")
    parser.add_argument("--drive", nargs=2, metavar=("ADDRESS", "STORE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.drive:
        drive(arguments.drive[0], Path(arguments.drive[1]))
        return
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder, cluster(cpus=2, nodes=2) as place:
        peace, war = Path(folder) / "peace", Path(folder) / "war"
        began = time.time()
        calm = Driver(place, peace).finish()
        calm_seconds = time.time() - began
        print(f"left in peace: {calm_seconds:.0f} s, {calm['counts']}", flush=True)
        began = time.time()
        blows, answer, seconds = strike(place, war, arguments.only or list(BLOWS))
        hear(blows, war)
        left = left_over(Sight(place, Store(war), steps()))
        twice, (same, stages) = made_twice(war), same_bytes(peace, war)
        mark = place.mark
    stayed = marked(mark)
    assert answer["matrices"] == calm["matrices"], "the matrices differ"
    assert not twice, f"made twice: {twice}"
    assert not left and not stayed, f"processes are left: {left} {stayed}"
    report = [
        *table(blows, began),
        "",
        f"Left in peace the sweep took {calm_seconds:.0f} s, under these blows {seconds:.0f} s. All "
        f"{len(calm['matrices'])} accuracy matrices are equal; {same} of {stages} training stages have the same bytes. "
        f"No step was made twice ({calm['counts']['distinct']} distinct, by the store's journal), and no process of "
        "the sweep or the cluster was left.",
    ]
    print("\n".join(report))
    if not arguments.only:
        head = [
            "# A sweep under blows",
            "",
            f"Written by `python -m benchmarks.chaos` on {time.strftime('%Y-%m-%d')}: two Ray nodes of two cores each "
            f"on one machine of {os.cpu_count()}, token authentication on; 2 methods x 2 ranks x 2 orders of "
            f"{' and '.join(TASKS)}, stages of {STEPS} steps by two ZeRO-2 workers spread over both nodes.",
            "",
        ]
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text("\n".join([*head, *report]) + "\n")


if __name__ == "__main__":
    main()
