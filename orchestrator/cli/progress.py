"""Progress of a run, for people: a listener that draws bars on a terminal and prints a line now and then elsewhere.

The time left is an estimate from measured seconds: the mean of the finished steps of a kind, or what a running step's
own progress says, over as many steps at once as have run at once so far.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.execution.events import (
    Event,
    MachinesAwaited,
    RunFinished,
    RunStarted,
    StepAwaited,
    StepBlocked,
    StepDamaged,
    StepFailed,
    StepFinished,
    StepProgress,
    StepRetried,
    StepsAdded,
    StepStarted,
    TrialEnded,
    TrialRetried,
)
from orchestrator.formats import format_seconds
from orchestrator.steps.step import Step

LINE_SECONDS = 10.0
STAGE = "train"


#: What predicting and scoring take beside training, until they are measured; about so on the mini benchmark.
SHARE_OF_TRAINING = {"predict": 0.04, "score": 0.002}


@dataclass
class Running:
    """A step in hand: when it started, what it first said (once its worker was up) and what it said last."""

    step: Step
    started: float
    done: int = 0
    total: int = 0
    loss: float | None = None
    first: tuple[float, int] | None = None
    last: float = 0.0

    @property
    def whole(self) -> float | None:
        """Seconds that the step takes in all at the speed between its first and its last report."""
        if self.first is None or not self.total or self.done - self.first[1] < 0.02 * self.total:
            return None
        return (self.last - self.first[0]) * self.total / (self.done - self.first[1])


@dataclass
class RunView:
    """The view of a run: events go in, `seconds_left` comes out. The clock is a parameter, so it can be tested."""

    clock: Callable[[], float] = time.monotonic
    started: float | None = None
    steps: tuple[Step, ...] = ()
    reused: int = 0
    finished: int = 0
    failed: int = 0
    blocked: int = 0
    stages_done: int = 0
    running: dict[str, Running] = field(default_factory=dict)
    waiting: Counter[str] = field(default_factory=Counter)
    measured: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    widest: int = 1
    trials: tuple[int, int] = (0, 0)
    trials_by_end: Counter[str] = field(default_factory=Counter)

    def __call__(self, event: Event) -> None:
        """Take one event in."""
        match event:
            case RunStarted():
                self.started = self.clock()
                self.steps, self.reused = event.steps, event.reused
                self.waiting = Counter(step.kind for step in event.steps)
            case StepsAdded(steps):
                self.steps += steps
                self.waiting.update(step.kind for step in steps)
            case TrialEnded(ended=ended, total=total, state=how):
                self.trials = ended, total
                self.trials_by_end[how] += 1
            case StepStarted(step):
                self._start(step)
            case StepAwaited(step=step) | StepRetried(step=step) if self.running.pop(step.digest, None):
                self.waiting[step.kind] += 1
            case StepProgress(step, done, total, metrics):
                running = self._start(step)
                running.done, running.total, running.last = done, total, self.clock()
                running.first = running.first or (running.last, done)
                running.loss = metrics.get("loss", running.loss)
            case StepFinished(step, record):
                self._end(step)
                self.finished += 1
                self.stages_done += step.kind == STAGE
                self.measured[step.kind].append(record.seconds)
            case StepFailed(step=step):
                self._end(step)
                self.failed += 1
            case StepBlocked(step=step):
                self._end(step)
                self.blocked += 1

    def _start(self, step: Step) -> Running:
        if step.digest not in self.running:
            self.waiting[step.kind] -= 1
            self.running[step.digest] = Running(step, self.clock())
            self.widest = max(self.widest, len(self.running))
        return self.running[step.digest]

    def _end(self, step: Step) -> None:
        if self.running.pop(step.digest, None) is None:
            self.waiting[step.kind] -= 1

    @property
    def over(self) -> int:
        """Steps that will not run any more: finished, failed or blocked."""
        return self.finished + self.failed + self.blocked

    @property
    def num_stages(self) -> int:
        """Training steps among those to run."""
        return sum(step.kind == STAGE for step in self.steps)

    def _expected(self, kind: str) -> float | None:
        """Mean seconds of a kind: as measured, as running steps promise, or as a share of a training stage."""
        if times := self.measured.get(kind):
            return math.fsum(times) / len(times)
        if kind in SHARE_OF_TRAINING and (training := self._expected("train")):
            return SHARE_OF_TRAINING[kind] * training
        guesses = [guess for run in self.running.values() if run.step.kind == kind and (guess := run.whole)]
        return math.fsum(guesses) / len(guesses) if guesses else None

    @property
    def seconds_left(self) -> float | None:
        """Estimate; None before anything was measured. A kind not seen yet counts like the mean of those seen."""
        known = {kind: value for kind in self.waiting if (value := self._expected(kind)) is not None}
        if not known:
            return None
        typical = math.fsum(known.values()) / len(known)
        work = math.fsum(known.get(kind, typical) * max(0, count) for kind, count in self.waiting.items())
        for run in self.running.values():
            if run.whole is not None:
                left = run.whole * (1 - run.done / run.total) - (self.clock() - run.last)
            else:
                left = known.get(run.step.kind, typical) - (self.clock() - run.started)
            work += max(0.0, left)
        return work / self.widest


class Progress:
    """The listener. Use it as a context manager: leaving it stops the drawing.

    `phase` stands before the counts: a study with a search is "search, 1 of 2" and then "table, 2 of 2".
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic, phase: str = "") -> None:
        self.console = console
        self.phase = f"{phase}: " if phase else ""
        self.view = RunView(clock)
        self.lock = threading.RLock()
        self.last_line = -math.inf
        self.live: Live | None = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self._stop()

    def __call__(self, event: Event) -> None:
        """Take an event; say what a person should know at once, and update the rest."""
        with self.lock:
            self.view(event)
        match event:
            case RunStarted(reused=reused, steps=steps) if steps:
                self.console.print(f"{self.phase}{len(steps)} steps to run, {reused} reused from the store")
                self._start_drawing()
            case StepsAdded() if self.live is None:
                self._start_drawing()
            case TrialRetried(name):
                self._note("yellow", f"trial {name}: its process died, another one goes on with it")
            case TrialEnded(name, "failed", reason=reason):
                self._note("red", f"trial {name} failed: {reason}")
            case StepAwaited(step, maker):
                self._note("dim", f"{step.label} is made by {maker}; waiting for its result")
            case MachinesAwaited(needs, has, seconds):
                self._note(
                    "yellow", f"{needs} are needed, the cluster has {has}: waits {format_seconds(seconds)} for more"
                )
            case StepRetried(step, deaths, reason):
                self._note("yellow", f"{step.label}: its worker died ({reason}), try {deaths + 1} goes on from there")
            case StepDamaged(step, problems, kept):
                what = "; ".join(problems[:2])
                self._note("yellow", f"{step.label} was damaged ({what}); moved to {kept} and made again")
            case StepFailed(step, error, log):
                self._note("red", f"{step.label} failed: {error}\n  log: {log}")
            case StepBlocked(step, because):
                self._note("dim", f"{step.label} cannot run since {because.label} failed")
            case RunFinished():
                self._stop()
        if self.live is None and not self.console.is_terminal and self.view.steps:
            self._maybe_line(always=isinstance(event, RunFinished))

    def _start_drawing(self) -> None:
        if self.console.is_terminal:
            self.live = Live(console=self.console, get_renderable=self._draw, transient=True)
            self.live.start()

    def _note(self, style: str, text: str) -> None:
        self.console.print(f"[{style}]{escape(text)}[/{style}]", soft_wrap=True)

    def _stop(self) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None

    def _maybe_line(self, always: bool) -> None:
        """A plain line if the last one is old enough: for logs."""
        now = self.view.clock()
        if not always and now - self.last_line < LINE_SECONDS:
            return
        self.last_line = now
        self.console.print(escape(self.line()), soft_wrap=True)

    def line(self) -> str:
        """The run in one line."""
        view = self.view
        doing = ", ".join(_describe(run) for run in view.running.values())
        return f"{self.phase}{_totals(view)}{' | ' + doing if doing else ''}"

    def _draw(self) -> Group:
        with self.lock:
            view = self.view
            grid = Table.grid(padding=(0, 1))
            bar = ProgressBar(total=max(1, len(view.steps)), completed=view.over, width=30)
            grid.add_row(bar, f"{self.phase}{_totals(view)}")
            for run in view.running.values():
                bar = ProgressBar(total=run.total or None, completed=run.done, width=30, pulse=not run.total)
                grid.add_row(bar, Text(_describe(run)))
            return Group(grid)


def _totals(view: RunView) -> str:
    elapsed = 0.0 if view.started is None else view.clock() - view.started
    failed = f", {view.failed} failed" if view.failed else ""
    if view.trials[1]:
        others = ", ".join(f"{count} {how}" for how, count in view.trials_by_end.items() if how != "done")
        failed += f", {view.trials[0]}/{view.trials[1]} trials{f' ({others})' if others else ''}"
    left = view.seconds_left
    rest = f"about {format_seconds(left)} left" if left is not None else "time left not known yet"
    return (
        f"{view.over}/{len(view.steps)} steps, {view.stages_done}/{view.num_stages} stages{failed}, "
        f"{format_seconds(elapsed)}, {rest if view.over < len(view.steps) else 'done'}"
    )


def _describe(run: Running) -> str:
    count = f" {run.done}/{run.total}" if run.total else ""
    loss = f" loss {run.loss:.3f}" if run.loss is not None else ""
    return f"{run.step.label}{count}{loss}"
