"""When a step whose workers die is given up: only if it is the step that kills them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.cluster.demand import StepDemand
from orchestrator.execution import events
from orchestrator.execution.deaths import DEATH_SECONDS, MAXIMUM_DEATHS, MAXIMUM_MISSES, Deaths
from orchestrator.execution.driver import Driver
from orchestrator.execution.run_count import RunCount
from orchestrator.execution.schedule import Ready
from orchestrator.execution.workers.actor import Settings
from orchestrator.execution.workers.pool import Slot
from orchestrator.steps.plan import Plan
from orchestrator.steps.step import Resources, Step
from orchestrator.storage.store import Store
from tests.orchestrator.toy_steps import number


@pytest.fixture
def deaths(tmp_path: Path) -> Deaths:
    store = Store(tmp_path)
    store.prepare()
    return Deaths(store)


def report(deaths: Deaths, step: Step, done: int) -> None:
    deaths.store.progress(step.digest).write_text(json.dumps({"done": done}))


def die(deaths: Deaths, step: Step, begun: bool = True) -> str:
    why = deaths.add(step, "killed", begun, several_machines=False)
    deaths.due(time.monotonic() + 100)
    return why


def test_a_step_that_dies_at_the_same_place_each_time_fails(deaths: Deaths) -> None:
    step = number(1)
    report(deaths, step, 5)
    answers = [die(deaths, step) for _ in range(MAXIMUM_DEATHS)]
    assert answers[:-1] == [""] * (MAXIMUM_DEATHS - 1)
    assert "died 3 times and got no further, out of memory perhaps; the last time: killed" in answers[-1]


def test_a_step_that_gets_further_between_deaths_is_tried_again(deaths: Deaths) -> None:
    step = number(1)
    for done in range(1, 10):
        report(deaths, step, done)
        assert die(deaths, step) == ""
    assert deaths.of(step) == 1


def test_a_process_that_never_came_up_is_not_the_steps_death(deaths: Deaths) -> None:
    step = number(1)
    answers = [die(deaths, step, begun=False) for _ in range(MAXIMUM_MISSES)]
    assert answers[:-1] == [""] * (MAXIMUM_MISSES - 1)
    assert "before they were up" in answers[-1]


def test_attempts_wait_only_where_a_machine_may_be_gone(deaths: Deaths) -> None:
    first, second = number(1), number(2)
    deaths.add(first, "killed", begun=True, several_machines=False)
    deaths.add(second, "killed", begun=True, several_machines=True)
    now = time.monotonic()
    assert deaths.due(now) == [first]
    assert deaths.due(now + DEATH_SECONDS[1]) == [second]
    assert not deaths.resting


def test_a_group_whose_workers_do_not_come_up_is_ended_and_its_steps_go_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, two = Store(tmp_path), Resources(workers=2)
    store.prepare()
    first, second = number(1, resources=two), number(2, resources=two)
    gone: list[Slot] = []
    pool = SimpleNamespace(discard=gone.append, measure=lambda: None, one_machine=False)
    monkeypatch.setattr("orchestrator.execution.driver.Pool", lambda *_: pool)
    said: list[events.Event] = []
    plan = Plan.of([first, second])
    needs = plan.needs(store)
    count = RunCount(plan, events.Listeners([said.append]), needs)
    driver = Driver(Ready(needs), store, Settings(str(tmp_path), 30, (), ()), 2, count)
    demand = StepDemand.of(two)
    steps = [driver.ready.pop(demand), driver.ready.pop(demand)]
    slot = Slot(None, demand, None, queue=[(step, None) for step in steps])
    assert slot.awaits_workers()
    driver._regroup(slot)
    assert gone == [slot] and driver.ready.pop(demand) == steps[1]
    assert [step for _, step in driver.deaths.resting.values()] == steps[:1]
    [retried] = [event for event in said if isinstance(event, events.StepRetried)]
    assert (retried.step, retried.reason) == (steps[0], "its 2 workers were not up after 300 s")
