"""Plans: order, what is missing, and the steps that a name finds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.execution.executor import execute_inline
from orchestrator.steps.plan import Plan
from orchestrator.steps.step import Step
from orchestrator.storage.record import RECORD
from orchestrator.storage.store import Store
from tests.orchestrator.toy_steps import MODULE, Number, Outer, number


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def labels(steps: tuple[Step, ...]) -> list[str]:
    return [step.label for step in steps]


def test_inputs_come_before_what_reads_them_and_each_digest_once() -> None:
    base = number(1)
    left, right = number(2, base), number(3, number(1, label="the same again"))
    plan = Plan.of([number(4, left, right), left, left])
    assert labels(plan.steps) == ["add 1", "add 2", "add 3", "add 4"]
    assert labels(plan.results) == ["add 4", "add 2"]


def test_requested_counts_what_would_run_if_nothing_were_shared() -> None:
    plan = Plan.of([number(2, number(1)), number(3, number(1))])
    assert (plan.requested, plan.distinct) == (4, 3)
    again = number(2)
    assert Plan.of([again, again]).requested == 2


def test_everything_is_missing_from_an_empty_store(store: Store) -> None:
    plan = Plan.of([number(2, number(1))])
    assert plan.missing(store) == plan.steps


def test_a_result_that_is_there_hides_what_it_was_made_from(store: Store, tmp_path: Path) -> None:
    base = number(1)
    top = number(2, base)
    execute_inline(Plan.of([top]), store)
    store.path(base.digest).rename(tmp_path / "gone")
    assert Plan.of([top]).missing(store) == ()
    assert labels(Plan.of([top, number(3, base)]).missing(store)) == ["add 1", "add 3"]


def test_what_a_result_refers_to_is_needed_with_it(store: Store, tmp_path: Path) -> None:
    base = number(1)
    state = number(0, kind="refer")
    state = Step("refer", f"{MODULE}:refer", Number(), (("previous", base),))
    plan = Plan.of([state])
    execute_inline(plan, store)
    assert store.references(state.digest) == (base.digest,)
    assert labels(plan.needs(store).reused) == ["add 1", "refer"]
    store.path(base.digest).rename(tmp_path / "gone")
    assert labels(plan.missing(store)) == ["add 1"]


def test_a_reader_waits_for_what_its_input_refers_to(store: Store, tmp_path: Path) -> None:
    base = number(1)
    state = Step("refer", f"{MODULE}:refer", Number(), (("previous", base),))
    reader = Step("follow", f"{MODULE}:follow", Number(), (("state", state),))
    execute_inline(Plan.of([state]), store)
    store.path(base.digest).rename(tmp_path / "gone")
    needs = Plan.of([reader]).needs(store)
    assert needs.after == {base.digest: frozenset(), reader.digest: frozenset({base.digest})}
    outcome = execute_inline(Plan.of([reader]), store)
    assert (outcome.run, outcome.failed) == (2, 0)
    assert json.loads((store.path(reader.digest) / "seen.json").read_text()) == {"sum": 1}


class Counted(tuple[str, ...]):
    """References that count how often one of them is looked at."""

    looks = 0

    def __iter__(self) -> Iterator[str]:
        for item in tuple.__iter__(self):
            Counted.looks += 1
            yield item


class StatesThere(Store):
    """A store that holds these stages, each of which refers to all before it."""

    def __init__(self, root: Path, stages: list[Step]) -> None:
        super().__init__(root)
        self.known = {step.digest: Counted(s.digest for s in stages[:place]) for place, step in enumerate(stages)}

    def digests(self) -> frozenset[str]:
        return frozenset(self.known)

    def references(self, digest: str) -> tuple[str, ...]:
        return self.known[digest]


@pytest.mark.parametrize("lost", [False, True])
def test_each_reference_is_looked_at_a_few_times_however_many_steps_read_the_states(tmp_path: Path, lost: bool) -> None:
    """A state of k tasks refers to k stages and k cells read it: walked anew for each, that is k^4."""
    stages = [number(0, kind="train")]
    for place in range(1, 24):
        stages.append(number(place, stages[-1], kind="train"))
    cells = [number(1000 * row + column, stage) for row, stage in enumerate(stages) for column in range(row + 1)]
    there = StatesThere(tmp_path, stages)
    if lost:
        del there.known[stages[0].digest]
    num_references = sum(map(len, there.known.values()))
    Counted.looks = 0
    needs = Plan.of(cells).needs(there)
    assert Counted.looks <= 3 * num_references
    waited = {stages[0].digest} if lost else set()
    assert all(needs.after[cell.digest] == waited for cell in cells)
    assert len(needs.missing) == len(cells) + lost


def test_an_artifact_without_a_readable_record_is_missing(store: Store) -> None:
    plan = Plan.of([number(1)])
    execute_inline(plan, store)
    (store.path(plan.steps[0].digest) / RECORD).write_text("{")
    assert plan.missing(store) == plan.steps


def test_select_and_count_by_kind() -> None:
    plan = Plan.of([number(2, number(1, kind="train", label="train a/b TextVQA"))])
    assert labels(plan.select("train")) == ["train a/b TextVQA"]
    assert plan.by_kind() == {"train": 1, "add": 1}


def test_find_gives_every_step_of_a_label() -> None:
    steps = number(1, label="same"), number(2, label="same")
    assert Plan.of(steps).find("same") == steps


def test_find_takes_a_label_or_the_start_of_a_digest() -> None:
    plan = Plan.of([number(1), number(2)])
    step = plan.steps[1]
    assert plan.find("add 2") == plan.find(step.digest[:10]) == (step,)
    with pytest.raises(ValueError, match="close to it: add 1; add 2"):
        plan.find("ADD")


def test_a_chain_of_ten_thousand_steps_is_planned_without_recursion(store: Store) -> None:
    step = number(0)
    for place in range(1, 10_000):
        step = Step(f"step {place}", f"{MODULE}:train", Outer(Number(place)), (("previous", step),))
    assert len(Plan.of([step]).missing(store)) == 10_000
