"""Sweeps on Ray Tune, of trivial steps: one executor for all trials, and a store that the next run goes on from."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.errors import PlacementError
from orchestrator.execution import events
from orchestrator.execution.executor import execute_inline
from orchestrator.resolving.resolve import resolve
from orchestrator.resolving.swept import lower_sweep
from orchestrator.results.reading import read_results
from orchestrator.steps.step import Resources
from orchestrator.storage.store import Store
from orchestrator.study import Axis, Stopping, Study, Sweep
from orchestrator.sweeps.runner import SweepOutcome, execute_sweep
from tests.orchestrator.toy_trials import TASKS, Other, Toy, toy_trial

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
TRIAL = "SweepTrial"


@pytest.fixture(scope="module", autouse=True)
def ray_session() -> Iterator[None]:
    from orchestrator.cluster.session import session

    with session("local", cores=2):
        yield


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def toys(*axes: Axis, toy: Toy = Toy(), tasks: Any = TASKS[:3], **other: Any) -> Study:
    return Study("toys", sweep=Sweep(toy_trial(toy, tasks), axes, **{"protocol": "end-of-stream", **other}))


def run(study: Study, store: Store, *listeners: Callable[[events.Event], None], slots: int = 1) -> SweepOutcome:
    return execute_sweep(study, store, slots=slots, listeners=listeners)


def chosen_in(found: SweepOutcome, store: Store) -> Any:
    """The choice, and the first point of what is chosen."""
    resolved = resolve(found.swept.study, store)
    (choice,), (question,) = resolved.choices, resolved.questions
    return choice, question.point(choice.best_place)


def trial_processes() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if any(TRIAL in word for word in child.cmdline()):
                found.append(child)
    return found


def test_equal_stages_of_trials_at_work_together_run_once_and_the_next_run_runs_nothing(
    store: Store, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    study = toys(Axis("method.level", (10.0, 20.0, 30.0)), Axis("method.rank", (1, 2)), toy=Toy(trace=str(trace)))
    ended: list[events.TrialEnded] = []
    found = run(study, store, lambda event: ended.append(event) if isinstance(event, events.TrialEnded) else None)
    plan = lower_sweep(study).lowered.plan
    assert found.outcome.ok and not found.failed
    assert (found.outcome.requested, found.outcome.distinct) == (plan.requested, plan.distinct)
    assert (found.outcome.run, found.outcome.reused) == (plan.distinct, 0)
    learned = Counter(line.rsplit(" ", 1)[0] for line in trace.read_text().splitlines())
    # Six trials share their first stage; the other two each has for itself.
    assert learned == {"Toy ScienceQA": 1, "Toy TextVQA": 6, "Toy Flickr30k": 6}
    assert [(event.ended, event.total, event.state) for event in ended] == [(n + 1, 6, "done") for n in range(6)]
    assert chosen_in(found, store)[0].settings == {"method.level": 30.0, "method.rank": 1}
    by_hand = Store(tmp_path / "other")
    execute_inline(plan, by_hand)
    assert store.digests() == by_hand.digests()
    assert [path.name for path in (store.root / "scratch").iterdir()] == []
    again = run(study, store)
    assert (again.outcome.run, again.outcome.reused, again.outcome.ok) == (0, plan.distinct, True)


def test_stopping_ends_the_weak_at_task_boundaries_and_leaves_the_others_as_they_are(
    store: Store, tmp_path: Path
) -> None:
    axis = Axis("method.level", (80.0, 70.0, 20.0, 10.0))
    found = run(toys(axis, stopping=Stopping(1, 2)), store)
    assert found.outcome.ok and found.swept.stopped and set(found.swept.stopped.values()) <= {1, 2}
    assert 0 not in found.swept.stopped
    whole = lower_sweep(toys(axis)).lowered
    undisturbed = Store(tmp_path / "undisturbed")
    execute_inline(whole.plan, undisturbed)
    assert store.digests() < undisturbed.digests()
    results, others = read_results(found.swept.lowered, store).trials, read_results(whole, undisturbed).trials
    for place, (result, other) in enumerate(zip(results, others, strict=True)):
        rows = found.swept.stopped.get(place, 3)
        assert [row[:rows] for row in other.matrices["main"].rows[:rows]] == list(result.matrices["main"].rows)
    again = run(toys(axis, stopping=Stopping(1, 2)), store)
    assert again.outcome.run == 0 and again.swept.stopped == found.swept.stopped


def test_a_failed_stage_fails_its_trials_alone_and_a_killed_trial_is_tried_again(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    methods = (Toy(level=1, seconds=1.0), Toy(level=2, breaks="TextVQA"), Other(level=3, seconds=1.0))
    study = toys(Axis("method", methods), tasks=TASKS[:2])
    killed: list[int] = []

    def killer(event: events.Event) -> None:
        if isinstance(event, events.StepFinished) and event.step.kind == "learn" and not killed:
            for process in trial_processes()[:1]:
                killed.append(process.pid)
                process.kill()

    found = run(study, store, killer)
    assert killed
    assert list(found.failed) == ["toy #2"] and "toy trouble" in found.failed["toy #2"]
    assert (found.outcome.failed, found.outcome.ok) == (1, False)
    results = read_results(found.swept.lowered, store).trials
    assert [result.num_missing for result in results] == [0, 2, 0]
    choice, _ = chosen_in(found, store)
    assert choice.settings == {"method": "other #3"} and "toy trouble" in choice.options[1].failed
    # Tune itself says nothing: its callback that prints has a line for a trial without a result.
    assert "Last result" not in capsys.readouterr().out


def test_optuna_is_seeded_noted_and_asked_for_the_same_trials_again(store: Store) -> None:
    axes = Axis("method.level", low=1.0, high=90.0), Axis("method.rank", (1, 2))
    found = run(toys(*axes, tasks=TASKS[:1], sampler="optuna", samples=4), store)
    assert found.outcome.ok and len(found.swept.points) == 4
    choice, best = chosen_in(found, store)
    assert best is not None and best[0] == max(point[0] for point in found.swept.points)
    again = run(toys(*axes, tasks=TASKS[:1], sampler="optuna", samples=4), store)
    assert again.outcome.run == 0 and again.swept.points == found.swept.points
    more = run(toys(*axes, tasks=TASKS[:1], sampler="optuna", samples=5), store)
    assert more.swept.points[:4] == found.swept.points and len(more.swept.points) == 5


def test_an_interrupt_ends_a_sweep_in_seconds_keeps_what_is_done_and_the_next_run_goes_on(
    store: Store, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    study = toys(Axis("method.level", (10.0, 20.0)), toy=Toy(trace=str(trace), seconds=2.0), tasks=TASKS[:2])
    begun: list[float] = []

    def interrupt(event: events.Event) -> None:
        if isinstance(event, events.StepFinished) and event.step.kind == "learn" and not begun:
            begun.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGTERM)

    found = run(study, store, interrupt)
    assert time.monotonic() - begun[0] < 60
    assert found.outcome.interrupted and 0 < found.outcome.run < found.outcome.distinct
    _, alive = psutil.wait_procs(trial_processes(), timeout=30)
    assert not alive
    assert [path for path in (store.root / "scratch").iterdir() if path.name.startswith("tune-")] == []
    assert run(study, store).outcome.ok
    assert Counter(line.split()[1] for line in trace.read_text().splitlines())["ScienceQA"] == 1


def test_a_sweep_that_cannot_fit_is_refused_before_anything_starts(store: Store) -> None:
    base = toy_trial(tasks=TASKS[:1], resources=Resources(cpus=64))
    study = Study("large", sweep=Sweep(base, (Axis("method.level", (1.0, 2.0)),)))
    of_tests_before = set(trial_processes())
    with pytest.raises(PlacementError, match="needs 1 worker.* with 64 cores"):
        execute_sweep(study, store)
    assert not store.digests() and set(trial_processes()) <= of_tests_before
