"""What runs next, and where there is room: pure bookkeeping, and the refusals that users see."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from orchestrator.cluster.demand import Demand, StepDemand, checked_slots
from orchestrator.errors import PlacementError
from orchestrator.execution.schedule import Ready
from orchestrator.execution.workers.fit import Tenant, fewest_enough, has_room
from orchestrator.steps.plan import Plan
from orchestrator.steps.step import Resources, Step
from orchestrator.storage.store import Store
from tests.orchestrator.toy_steps import MODULE, Number, number

TWO_MACHINES = [Demand(4, 1), Demand(4, 1)]


def ready_for(*results: Step, tmp_path: Path) -> Ready:
    return Ready(Plan.of(results).needs(Store(tmp_path / "nothing")))


def step(kind: str, value: int, *inputs: Step) -> Step:
    named = tuple((f"input{place}", item) for place, item in enumerate(inputs))
    return Step(f"{kind} {value}", f"{MODULE}:{kind}", Number(value), named)


def drain(ready: Ready) -> list[str]:
    order = []
    while demands := ready.demands():
        item = ready.pop(demands[0])
        order.append(item.label)
        ready.finished(item)
    return order


def test_first_results_come_first_and_then_a_stage_before_the_last_ones_evaluation(tmp_path: Path) -> None:
    first = step("train", 1)
    second = step("train", 2, first)
    third = step("train", 3, second)
    scores = [step("score", place, step("predict", place, stage)) for place, stage in enumerate([first, second, third])]
    bare = step("score", 9, step("predict", 9, step("add", 9)))
    order = drain(ready_for(*scores, bare, tmp_path=tmp_path))
    assert order[:6] == ["add 9", "predict 9", "score 9", "train 1", "predict 0", "score 0"]
    assert order[6:8] == ["train 2", "train 3"]
    assert sorted(order[8:]) == ["predict 1", "predict 2", "score 1", "score 2"]


def test_the_longest_remaining_path_goes_first(tmp_path: Path) -> None:
    short = step("train", 1)
    long = step("train", 3, step("train", 2))
    assert drain(ready_for(short, long, tmp_path=tmp_path))[0] == "train 2"


def test_a_step_is_ready_only_when_all_its_inputs_are_done(tmp_path: Path) -> None:
    left, right = step("add", 1), step("add", 2)
    ready = ready_for(step("add", 3, left, right), tmp_path=tmp_path)
    demand = ready.demands()[0]
    first, second = ready.pop(demand), ready.pop(demand)
    ready.finished(first)
    assert ready.demands() == []
    ready.finished(second)
    assert ready.pop(demand).label == "add 3"


def test_everything_behind_a_step_is_found_once(tmp_path: Path) -> None:
    base = step("add", 1)
    left, right = step("add", 2, base), step("add", 3, base)
    ready = ready_for(step("add", 4, left, right), step("add", 5), tmp_path=tmp_path)
    assert sorted(item.label for item in ready.behind(base)) == ["add 2", "add 3", "add 4"]


def test_slots_default_to_the_cores_of_the_cluster() -> None:
    assert checked_slots([number(1)], TWO_MACHINES, None) == 8


@pytest.mark.parametrize(
    "resources",
    [
        Resources(cpus=5),
        Resources(gpus=2),
        Resources(workers=3, gpus=1),
        Resources(workers=4, cpus=3),
        Resources(workers=9),
    ],
    ids=str,
)
def test_what_the_cluster_cannot_hold_is_refused_before_it_starts(resources: Resources) -> None:
    with pytest.raises(PlacementError, match=r"the cluster has 8 cores and 2 GPUs on 2 machine\(s\): ask for fewer"):
        checked_slots([number(1, resources=resources)], TWO_MACHINES, None)


@pytest.mark.parametrize(
    "resources", [Resources(cpus=4), Resources(workers=2, cpus=4, gpus=1), Resources(workers=8)], ids=str
)
def test_what_just_fits_is_taken(resources: Resources) -> None:
    assert checked_slots([number(1, resources=resources)], TWO_MACHINES, 2) == 2


@pytest.mark.parametrize(("slots", "message"), [(0, "use 1 or more"), (9, "use at most 8 slots")])
def test_an_impossible_number_of_slots_is_refused(slots: int, message: str) -> None:
    with pytest.raises(PlacementError, match=message):
        checked_slots([number(1)], TWO_MACHINES, slots)


@pytest.mark.parametrize("resources", [Resources(workers=0), Resources(cpus=0)], ids=str)
def test_a_step_without_a_worker_or_a_core_is_refused(resources: Resources) -> None:
    with pytest.raises(PlacementError, match="at least 1 worker and a core"):
        checked_slots([number(1, resources=resources)], TWO_MACHINES, None)


ONE, WHOLE = Demand(1), Demand(2)
MACHINES = {"a": WHOLE, "b": WHOLE}


def test_room_in_sum_may_be_too_little_on_each_machine() -> None:
    apart, together = [Tenant(ONE, ("a", "b"))], [Tenant(ONE, ("a", "a"))]
    assert not has_room(StepDemand(1, WHOLE), MACHINES, apart)
    assert has_room(StepDemand(1, WHOLE), MACHINES, together)
    assert has_room(StepDemand(2, ONE), MACHINES, apart, apart=True)
    assert has_room(StepDemand(2, ONE), MACHINES, together)
    assert not has_room(StepDemand(2, ONE), MACHINES, together, apart=True)


def test_a_process_that_may_be_on_any_machine_is_counted_on_every_one() -> None:
    assert not has_room(StepDemand(1, WHOLE), MACHINES, [Tenant(ONE, unplaced=1)])
    assert has_room(StepDemand(2, ONE), MACHINES, [Tenant(ONE, unplaced=1)])
    assert not has_room(StepDemand(1, ONE), {**MACHINES, "c": WHOLE}, [Tenant(ONE, unplaced=3)])
    assert has_room(StepDemand(1, WHOLE), MACHINES, [Tenant(ONE, ("a machine that is gone",))])


def test_of_idle_processes_only_those_make_way_whose_room_helps() -> None:
    places = ["a", "b", "a"]

    def enough(gone: Sequence[int]) -> bool:
        stay = [Tenant(ONE, (place,)) for number, place in enumerate(places) if number not in gone]
        return has_room(StepDemand(1, WHOLE), MACHINES, stay)

    assert fewest_enough(range(3), enough) == [1]
    assert fewest_enough(range(3), lambda gone: len(gone) >= 2) == [0, 1]
    assert fewest_enough(range(3), lambda gone: True) == []
    assert fewest_enough(range(3), lambda gone: False) == [0, 1, 2]
