"""What the executor makes of what many trials ask for: each step once, the most awaited first, nothing for nobody."""

from __future__ import annotations

import queue
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray import cloudpickle

from orchestrator.cluster.demand import Demand, ScaleLimit, StepDemand, checked_slots
from orchestrator.errors import PlacementError
from orchestrator.execution.events import Listeners
from orchestrator.execution.executor import checked_needs, execute_inline
from orchestrator.execution.schedule import Ready
from orchestrator.execution.workers.actor import Settings
from orchestrator.planning.lowering import TrialPlan
from orchestrator.resolving.swept import lower_point, lower_sweep
from orchestrator.steps.plan import Plan
from orchestrator.steps.step import Resources, Step
from orchestrator.storage.shelf import Shelf
from orchestrator.storage.store import Store
from orchestrator.study import Axis, Stopping, Study, Sweep
from orchestrator.sweeps.dispatch import GATE_SECONDS, StartGate
from orchestrator.sweeps.mailbox import Answer, Asked
from orchestrator.sweeps.requests import OpenRequests, SweepCount
from orchestrator.sweeps.suggesting import Suggesting
from orchestrator.sweeps.trial import PLACE, Orders, SweepTrial, stops
from orchestrator.sweeps.tuning import _Halt, _Halted, _Watcher, num_live
from tests.orchestrator.toy_steps import number
from tests.orchestrator.toy_trials import TASKS, Toy, toy_trial


class Bench:
    """Open requests and their graph, with a worker that makes one step at a time in this process."""

    def __init__(self, root: Path) -> None:
        self.store = Store(root)
        self.store.prepare()
        self.ready, self.told = Ready(), []  # type: ignore[var-annotated]
        self.shelf = Shelf(self.store)
        say = Listeners()
        self.requests = OpenRequests(
            self.shelf, lambda plan: checked_needs(plan, self.store, say, self.shelf), tell=self.told.append
        )
        self.count = SweepCount(Plan.of(()), say, requests=self.requests)
        self.made: list[str] = []

    def take(self) -> Step:
        """The next step, as the driver would give it to a worker."""
        return self.ready.pop(self.ready.demands()[0])

    def make(self, step: Step) -> None:
        """Make it, or let it fail."""
        outcome = execute_inline(Plan.of([step]), self.store)
        if outcome.failed:
            self.count.failed(step, outcome.failures[0].error, self.store, self.ready)
            return
        self.made.append(step.label)
        self.count.finished(step, self.store.record(step.digest), self.ready)

    def make_all(self) -> None:
        """Until nothing is ready."""
        while self.ready.demands():
            self.make(self.take())

    def make_until_one_fails(self) -> None:
        """Until the first failure."""
        while not self.count.failures:
            self.make(self.take())


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "store")


def plans(*methods: Toy, tasks: Any = TASKS[:3]) -> list[TrialPlan]:
    sweep = Sweep(toy_trial(tasks=tasks), (Axis("method", methods),), protocol="end-of-stream")
    return list(lower_sweep(Study("toy", sweep=sweep)).plans)


def rows(plan: TrialPlan, *which: int) -> dict[int, list[Step]]:
    """What a trial asks for that stops after each of these rows."""
    return {row + 1: plan.steps_of(range(row, row + 1)) for row in which or range(len(plan.after))}


def test_equal_steps_of_two_trials_are_one_step_also_while_it_is_in_hand(bench: Bench) -> None:
    first, second = plans(Toy(level=1), Toy(level=2))
    bench.requests.ask("a", rows(first), bench.ready)
    shared = bench.take()
    assert shared == first.stages[0]
    bench.requests.ask("b", rows(second), bench.ready)
    assert shared not in [bench.ready.pop(demand) for demand in bench.ready.demands()]
    bench.make(shared)
    bench.make_all()
    assert bench.made.count(shared.label) == 1 and len(bench.made) == len(set(bench.made))


def test_the_most_awaited_step_goes_first_and_then_the_longest_path() -> None:
    one, other, common = number(1), number(2), number(3)
    long = number(9, number(8, number(7, one)))
    ready = Ready()
    needs = {name: Plan.of(steps).needs(Store("/nowhere")) for name, steps in _asked(long, other, common).items()}
    ready.add(needs["long"], "long")
    ready.add(needs["other"], "other")
    assert _next(ready) is one
    ready.add(needs["first"], "first")
    assert _next(ready) is one
    ready.add(needs["second"], "second")
    # Two wait for `common`, one for each of the others: the long path comes after it.
    assert _next(ready) is common
    ready.withdraw("second")
    assert _next(ready) is one


def _asked(long: Step, other: Step, common: Step) -> dict[str, list[Step]]:
    return {"long": [long], "other": [other], "first": [common], "second": [common]}


def _next(ready: Ready) -> Step:
    """The step that would go next; it stays ready."""
    step = ready.pop(ready.demands()[0])
    ready.put(step)
    return step


def test_a_new_consumer_lengthens_the_path_of_what_it_waits_for() -> None:
    base, other = number(1), number(2)
    ready, nowhere = Ready(), Store("/nowhere")
    ready.add(Plan.of([other, base]).needs(nowhere), "a")
    assert _next(ready) is other
    ready.add(Plan.of([number(5, number(4, base))]).needs(nowhere), "a")
    assert _next(ready) is base


def test_what_only_a_stopped_trial_waited_for_is_dropped_and_what_another_waits_for_is_kept(bench: Bench) -> None:
    first, second = plans(Toy(level=1), Toy(level=2))
    bench.requests.ask("a", rows(first), bench.ready)
    bench.requests.ask("b", rows(second), bench.ready)
    bench.requests.leave("a", bench.ready)
    bench.make_all()
    assert set(bench.made) == {step.label for step in Plan.of(second.steps).steps}
    assert {answer.key for answer in bench.requests.collect()} == {"b"}
    assert not bench.ready.steps and not bench.requests._waiting


def test_a_step_in_hand_is_finished_though_its_trial_was_stopped_and_is_not_begun_again(bench: Bench) -> None:
    (plan,) = plans(Toy())
    bench.requests.ask("a", rows(plan), bench.ready)
    step = bench.take()
    bench.requests.leave("a", bench.ready)
    assert not bench.ready.demands()
    bench.requests.ask("b", rows(plan), bench.ready)
    assert not bench.ready.demands()
    bench.make(step)
    bench.make_all()
    assert bench.made.count(step.label) == 1
    assert [(answer.stop, answer.error) for answer in bench.requests.collect()] == [(1, ""), (2, ""), (3, "")]


def test_a_failed_stage_fails_the_trials_that_need_it_and_no_other(bench: Bench) -> None:
    bad, good = plans(Toy(level=1, breaks="TextVQA"), Toy(level=2))
    bench.requests.ask("bad", rows(bad), bench.ready)
    bench.requests.ask("good", rows(good), bench.ready)
    bench.make_all()
    answers = {(answer.key, answer.stop): answer.error for answer in bench.requests.collect()}
    assert [answers["good", stop] for stop in (1, 2, 3)] == ["", "", ""]
    assert answers["bad", 1] == ""
    assert all("toy trouble" in answers["bad", stop] for stop in (2, 3))
    # Asked again in the same run, it is answered at once, and nothing is tried again.
    bench.requests.ask("again", rows(bad, 1), bench.ready)
    assert not bench.ready.demands()
    assert "toy trouble" in bench.requests.collect()[0].error


def test_rows_that_are_in_the_store_are_answered_at_once_and_a_trial_may_ask_row_by_row(bench: Bench) -> None:
    (plan,) = plans(Toy())
    bench.requests.ask("a", rows(plan, 0), bench.ready)
    bench.make_all()
    assert bench.requests.collect() == [Answer("a", 1)]
    assert {step.config.task for step in Plan.of(plan.stages).steps if step.label in bench.made} == {TASKS[0]}
    bench.requests.ask("b", rows(plan, 0), bench.ready)
    assert bench.requests.collect() == [Answer("b", 1)]
    bench.requests.ask("b", rows(plan, 1, 2), bench.ready)
    bench.make_all()
    assert [answer.stop for answer in bench.requests.collect()] == [2, 3]
    assert len(bench.told) == 3 - 1


def test_a_trial_that_asks_for_everything_at_once_is_answered_once_when_all_of_it_is_there(bench: Bench) -> None:
    (plan,) = plans(Toy())
    bench.requests.ask("a", {3: plan.steps_of(range(3))}, bench.ready)
    answered = []
    while bench.ready.demands():
        assert not answered
        bench.make(bench.take())
        answered += bench.requests.collect()
    assert answered == [Answer("a", 3)]
    assert set(bench.made) == {step.label for step in Plan.of(plan.steps).steps}


def test_a_trial_that_asked_for_everything_hears_once_of_a_failure_and_the_rest_is_made(bench: Bench) -> None:
    bad, worse = plans(Toy(level=1, breaks="Flickr30k"), Toy(level=2, breaks="TextVQA"))
    for key, plan in (("bad", bad), ("worse", worse)):
        bench.requests.ask(key, {3: plan.steps_of(range(3))}, bench.ready)
    told: dict[str, int] = {}
    while bench.ready.demands():
        bench.make(bench.take())
        for answer in bench.requests.collect():
            assert "toy trouble" in answer.error and answer.key not in told
            told[answer.key] = len(bench.made)
    wanted = {"bad": bad.steps_of(range(2)), "worse": worse.steps_of(range(1))}
    assert set(bench.made) == {step.label for steps in wanted.values() for step in steps}
    for key, steps in wanted.items():
        assert {step.label for step in steps} <= set(bench.made[: told[key]])


def test_a_trial_that_asks_after_a_failure_gets_what_one_gets_that_asked_before(bench: Bench) -> None:
    (bad,) = plans(Toy(breaks="TextVQA"))
    bench.requests.ask("first", {3: bad.steps_of(range(3))}, bench.ready)
    bench.make_until_one_fails()
    bench.requests.leave("first", bench.ready)
    bench.requests.ask("again", {3: bad.steps_of(range(3))}, bench.ready)
    bench.make_all()
    assert set(bench.made) == {step.label for step in bad.steps_of(range(1))}
    (answer,) = bench.requests.collect()
    assert (answer.key, answer.stop) == ("again", 3) and "toy trouble" in answer.error


def test_a_trial_that_leaves_after_a_failure_leaves_nothing_behind(bench: Bench) -> None:
    (bad,) = plans(Toy(breaks="TextVQA"))
    bench.requests.ask("bad", {3: bad.steps_of(range(3))}, bench.ready)
    bench.make_until_one_fails()
    bench.requests.leave("bad", bench.ready)
    bench.make_all()
    assert not bench.requests.collect() and not bench.ready.steps and not bench.requests._waiting
    assert not bench.requests._refusals and not bench.requests._open


def test_what_is_asked_for_again_counts_as_asked_for_now(bench: Bench) -> None:
    (plan,) = plans(Toy())
    steps = plan.steps_of(range(3))
    bench.requests.ask("a", {3: steps}, bench.ready)
    # Before the trial asks again, another run makes what nothing else needs.
    last = plan.cells[2, 2][1]
    execute_inline(Plan.of([last]), bench.store)
    bench.requests.ask("a", {3: steps}, bench.ready)
    bench.make_all()
    bench.count.finished(last, bench.store.record(last.digest), bench.ready)
    assert bench.requests.collect() == [Answer("a", 3)] and not bench.requests._waiting


def test_a_trial_stops_at_each_task_up_to_the_next_rung_and_without_early_stopping_only_at_its_end() -> None:
    base, axis = toy_trial(tasks=TASKS), Axis("method.level", (1.0, 2.0))
    plain = Sweep(base, (axis,), protocol="end-of-stream")
    pruned = replace(plain, stopping=Stopping(1, 3))
    (plan, _) = lower_sweep(Study("toy", sweep=pruned)).plans
    assert pruned.stopping is not None and pruned.stopping.rungs(4) == (1, 3, 4)
    assert [stops(pruned, plan, row) for row in (0, 1, 3)] == [(1,), (2, 3), (4,)]
    assert stops(plain, plan, 0) == (4,)


@pytest.mark.parametrize(
    ("config", "changes", "reported"),
    [
        ({PLACE: 1}, {}, [None]),
        ({PLACE: 1}, {"sampler": "random", "samples": 2}, [None]),
        ({"point": [1]}, {"sampler": "optuna", "samples": 2}, [1.5]),
        ({PLACE: 1}, {"stopping": Stopping(1)}, [2.0, 1.5]),
    ],
    ids=["grid", "random", "optuna", "asha"],
)
def test_a_trial_reports_the_metric_where_a_sampler_or_a_scheduler_goes_by_it(
    config: dict[str, Any],
    changes: dict[str, Any],
    reported: list[float | None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Two tasks at the second level, 2: 2 on the first, then 1 there and 2 on the second.
    study = Study("toy", sweep=Sweep(toy_trial(), (Axis("method.level", (1.0, 2.0)),), **changes))
    assert execute_inline(Plan.of(lower_point(study, (1,)).steps), Store(tmp_path)).ok
    monkeypatch.setattr(SweepTrial, "trial_id", "trial")
    monkeypatch.setattr("orchestrator.sweeps.mailbox.wait", lambda *_: "")
    trial = SweepTrial.__new__(SweepTrial)
    settings = Settings(str(tmp_path), 30, (), ())
    trial.setup(config, Orders(cloudpickle.dumps(study), ((0,), (1,)), {}, "nowhere", settings))
    reports = [trial.step()]
    while not reports[-1]["done"]:
        reports.append(trial.step())
    assert [report.get("AP") for report in reports] == reported
    assert reports[-1]["tasks"] == 2


def test_a_trial_whose_figures_nobody_goes_by_lowers_nothing_and_asks_for_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Asked] = []
    monkeypatch.setattr(SweepTrial, "trial_id", "trial")

    def granted(address: str, key: str, stop: int, what: Asked) -> str:
        asked.append(what)
        return ""

    monkeypatch.setattr("orchestrator.sweeps.mailbox.wait", granted)
    monkeypatch.setattr("orchestrator.sweeps.trial.lower_point", lambda *_: pytest.fail("it was lowered"))
    trial = SweepTrial.__new__(SweepTrial)
    orders = Orders(b"", ((0,), (1,)), {}, "nowhere", Settings(str(tmp_path), 30, (), ()), ((2, 2), (2, 2)))
    trial.setup({PLACE: 1}, orders)
    assert trial.step() == {"tasks": 2, "done": True}
    trial.reset_config({PLACE: 0})
    monkeypatch.setattr("orchestrator.sweeps.mailbox.wait", lambda *_: "a stage failed")
    assert "tasks" not in trial.step(), "nothing is learned where the driver says so"
    (what,) = asked
    assert (what.point, what.first, what.stops, what.digest) == ((1,), 0, (2,), "")


def test_a_damaged_artifact_is_found_when_a_trial_asks_for_it(bench: Bench, tmp_path: Path) -> None:
    (plan,) = plans(Toy())
    execute_inline(Plan.of(plan.steps), bench.store)
    scores = bench.store.path(plan.cells[0, 0][1].digest) / "scores.json"
    scores.write_text("{}")
    bench.shelf = bench.requests.shelf = Shelf(bench.store)
    bench.requests.ask("a", rows(plan), bench.ready)
    bench.make_all()
    assert bench.made == [plan.cells[0, 0][1].label]


def test_a_thousand_trials_leave_nothing_behind_in_the_graph(bench: Bench) -> None:
    ready, store = Ready(), Store("/nowhere")
    base = number(0)
    for trial in range(1000):
        ready.add(Plan.of([number(trial + 1, base)]).needs(store), str(trial))
    while ready.demands():
        ready.finished(ready.pop(ready.demands()[0]))
    for trial in range(1000):
        ready.withdraw(str(trial))
    kept = {name: len(value) for name, value in vars(ready).items() if hasattr(value, "__len__")}
    assert kept == {name: int(name == "_heaps") for name in kept}
    assert all(not heap for heap in ready._heaps.values())


# What fits


def test_a_sweep_may_need_what_the_cluster_may_grow_to_and_not_more() -> None:
    step = number(1, resources=Resources(cpus=8, gpus=2, workers=2))
    scale = ScaleLimit.parse("2x16+2")
    assert (scale.machines, scale.each) == (2, Demand(16, 2))
    assert checked_slots([step], [Demand(4)], None, scale) == 32
    with pytest.raises(PlacementError, match=r"on 1 machine\(s\): ask for fewer workers"):
        checked_slots([step], [Demand(4)], None)
    with pytest.raises(PlacementError, match="may grow to 1 with 16 cores and 2 GPUs each"):
        checked_slots([step], [Demand(4)], None, ScaleLimit.parse("1x16+2"))
    with pytest.raises(ValueError, match="as in 8x16"):
        ScaleLimit.parse("many")


def test_the_number_of_live_trials_is_computed_from_the_slots() -> None:
    assert [num_live(slots, 100) for slots in (1, 2, 8, 1000)] == [2, 3, 12, 64]
    assert num_live(8, 3) == 3 and num_live(1, 1) == 1


def test_shapes_of_several_sizes_are_ordered_by_their_most_urgent_step() -> None:
    small, large = number(1), number(2, resources=Resources(cpus=2))
    ready = Ready()
    ready.add(Plan.of([small, large]).needs(Store("/nowhere")), "a")
    ready.add(Plan.of([large]).needs(Store("/nowhere")), "b")
    assert ready.demands() == [StepDemand.of(large.resources), StepDemand.of(small.resources)]


def test_the_first_answers_wait_until_the_first_trials_are_up() -> None:
    now = [0.0]
    gate = StartGate(4, lambda: now[0])
    assert not gate.is_open(0, 9)
    now[0] = 1000.0
    assert not gate.is_open(1, 9) and not gate.is_open(3, 9)
    assert gate.is_open(4, 9) and gate.is_open(1, 9), "once over, for ever"
    assert StartGate(4).is_open(2, 2), "the others are over already"


def test_the_first_answers_do_not_wait_for_ever() -> None:
    now = [0.0]
    gate = StartGate(4, lambda: now[0])
    assert not gate.is_open(1, 9)
    now[0] = GATE_SECONDS - 1
    assert not gate.is_open(2, 9)
    now[0] = GATE_SECONDS + 1
    assert not gate.is_open(2, 9), "one came a moment ago"
    now[0] = 2 * GATE_SECONDS
    assert gate.is_open(2, 9)


def test_tune_is_ended_once_the_last_trial_is_told_over_and_not_before() -> None:
    halt, messages = threading.Event(), queue.SimpleQueue[Any]()
    orders = SimpleNamespace(points=((1.0,), (2.0,)))
    watcher = _Watcher(SimpleNamespace(messages=messages, orders=orders, halt=halt, num_trials=2))  # type: ignore[arg-type]
    trials = [
        SimpleNamespace(
            trial_id=str(place),
            config={PLACE: place},
            last_result=None,
            error_file=None,
            metric_analysis={"AP": 1.0},
            metric_n_steps={"AP": 1},
        )
        for place in range(2)
    ]
    stopper = _Halt(halt)
    watcher.on_trial_complete(1, trials, trials[0])
    watcher.on_trial_complete(1, trials, trials[0])
    assert not stopper.stop_all()
    watcher.on_trial_error(1, trials, trials[1])
    with pytest.raises(_Halted):
        stopper.stop_all()
    assert [messages.get_nowait().point for _ in range(3)] == [(1.0,), (1.0,), (2.0,)]
    assert not any(trial.metric_analysis or trial.metric_n_steps for trial in trials), "memory is flat"


def test_optuna_is_told_only_how_a_trial_ended_since_a_metric_may_come_late(bench: Bench) -> None:
    axes = (Axis("method.level", low=1.0, high=9.0),)
    sweep = Sweep(toy_trial(tasks=TASKS[:3]), axes, protocol="end-of-stream", metric="BWT", sampler="optuna", samples=2)
    searcher = Suggesting(sweep, (), bench.store)
    assert searcher.suggest("trial") is not None
    # After the first task there is no BWT yet; Optuna's own searcher raises KeyError.
    searcher.on_trial_result("trial", {"AP": 50.0, "training_iteration": 1})
    searcher.on_trial_complete("trial", {"AP": 50.0, "BWT": -1.0, "training_iteration": 3})
    assert [trial.value for trial in searcher._ot_study.trials] == [-1.0]
