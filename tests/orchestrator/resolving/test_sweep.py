"""A sweep as a value: its trials, what they cost, what is chosen and by which protocol. Nothing runs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from lilora.benchmarks import Stream
from lilora.methods.lilora import LiLoRA
from lilora.methods.seqlora import SeqLoRA
from lilora.methods.zeroshot import ZeroShot
from lilora.training import Training
from orchestrator.planning.lowering import lower
from orchestrator.report import write_report
from orchestrator.resolving.choosing import choose
from orchestrator.resolving.notes import Notes, note_failed, note_stopped, note_suggested, read_notes, trial_digest
from orchestrator.resolving.questions import questions
from orchestrator.resolving.resolve import resolve
from orchestrator.resolving.swept import lower_sweep, truncated, upper_bound
from orchestrator.results.reading import read_results
from orchestrator.results.table import metrics_after
from orchestrator.storage.store import Store
from orchestrator.study import Axis, Stopping, Study, Sweep, Trial
from orchestrator.study.points import name_at, points, trial_at
from orchestrator.study.search import describe_protocol
from tests.orchestrator.fake_results import BACKBONE, fill
from tests.orchestrator.toy_trials import Toy, toy_trial

TASKS = ("ScienceQA", "TextVQA", "Flickr30k")
BASE = Trial(LiLoRA(), BACKBONE, Stream(tasks=TASKS))
LAM = Axis("method.lam", (0.1, 1.0))
RATE = Axis("training.learning_rate", (1e-3, 3e-3))
SEEDS = Axis("seed", (0, 1))


def sweeping(*axes: Axis, base: Trial = BASE, **other: Any) -> Study:
    return Study("varied", sweep=Sweep(base, axes or (LAM, RATE), **other))


def chosen_in(study: Study, store: Store) -> Any:
    """The choice, and the first point of what is chosen."""
    notes = read_notes(study.sweep, store) if study.sweep else Notes()
    (question,) = asked = questions(study, notes)
    (choice,) = choose(asked, read_results(lower_sweep(study, notes).lowered, store).trials, notes)
    return choice, question.point(choice.best_place)


# Which trials it has


def test_a_grid_has_the_digests_of_the_same_trials_written_out_by_hand() -> None:
    pair = Stream(tasks=TASKS[:2])
    by_hand = tuple(
        Trial(LiLoRA(lam=lam), BACKBONE, pair, Training(learning_rate=rate), split="validation")
        for lam in (0.1, 1.0)
        for rate in (1e-3, 3e-3)
    )
    swept, written = lower_sweep(sweeping()).lowered, lower(Study("hand", by_hand))
    assert [step.digest for step in swept.plan.steps] == [step.digest for step in written.plan.steps]
    assert [plan.trial for plan in swept.trials] == list(by_hand)
    assert swept.plan.requested == written.plan.requested


def test_methods_orders_backbones_and_instructions_can_be_varied_too() -> None:
    orders = Axis("stream.tasks", (TASKS, TASKS[::-1]))
    study = sweeping(
        Axis("method", (SeqLoRA(), LiLoRA())), Axis("method.rank", (4, 8)), orders, protocol="end-of-stream"
    )
    trials = lower_sweep(study).lowered.trials
    assert len(trials) == 8
    assert {(type(item.trial.method).__name__, item.trial.method.rank, item.tasks) for item in trials} == {
        (name, rank, order) for name in ("SeqLoRA", "LiLoRA") for rank in (4, 8) for order in (TASKS, TASKS[::-1])
    }
    assert {item.name for item in trials} >= {"seqlora rank=4 order 1", "lilora rank=8 order 2"}
    other = dataclasses.replace(BACKBONE, name="other")
    more = sweeping(Axis("backbone", (BACKBONE, other)), Axis("stream.instructions", ("single", "five")))
    assert len(lower_sweep(more).lowered.trials) == 4


def test_a_part_that_a_method_has_not_is_left_out_for_it_and_equal_trials_come_once() -> None:
    study = sweeping(Axis("method", (SeqLoRA(), LiLoRA())), LAM)
    assert [plan.name for plan in lower_sweep(study).lowered.trials] == ["seqlora", "lilora lam=0.1", "lilora lam=1"]


def test_random_points_follow_from_the_seed_and_more_of_them_keep_the_first() -> None:
    axes = (Axis("training.learning_rate", low=1e-4, high=1e-2, log=True), Axis("method.rank", low=2, high=16))
    few = points(Sweep(BASE, axes, "random", samples=5))
    assert points(Sweep(BASE, axes, "random", samples=9))[:5] == few
    assert points(Sweep(BASE, axes, "random", samples=5, seed=1)) != few
    for rate, rank in few:
        assert 1e-4 <= rate <= 1e-2 and float(f"{rate:.4g}") == rate
        assert rank in range(2, 17)
    assert Sweep(BASE, axes, "random", samples=5).digest == Sweep(BASE, axes, "random", samples=9).digest


def test_names_tell_the_trials_apart() -> None:
    study = sweeping(LAM, RATE, SEEDS)
    swept = lower_sweep(study).lowered
    assert len({plan.name for plan in swept.trials}) == 8
    assert len({plan.group for plan in swept.trials}) == 4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Axis("rank", (4,)), "cannot vary 'rank'; an axis is method, backbone, seed, or a part"),
        (lambda: Axis("method.rank"), "needs one value or more"),
        (lambda: Axis("method.rank", (4, 4)), "each once"),
        (lambda: Axis("method.rank", low=8, high=4), "low < high"),
        (lambda: Axis("method.lam", low=0, high=1, log=True), "low must be above 0"),
        (lambda: sweeping(protocol="last"), "no protocol 'last'; there are: first-task-pair, end-of-stream, oracle"),
        (lambda: sweeping(metric="F1"), "no metric 'F1'"),
        (lambda: sweeping(sampler="halton"), "no sampler 'halton'; there are: grid, random, optuna"),
        (lambda: sweeping(LAM, LAM), "one for each field"),
        (lambda: sweeping(Axis("method.lam", low=0.1, high=1)), "a grid has no a range on|list values"),
        (lambda: sweeping(sampler="random"), "needs the number of trials"),
        (lambda: sweeping(metric="BWT", stopping=Stopping()), "BWT says nothing after one task"),
        (lambda: sweeping(metric="BWT_N", stopping=Stopping()), "BWT_N says nothing after one task"),
        (lambda: sweeping(metric="FWT", stopping=Stopping()), "FWT says nothing after one task"),
        (lambda: Stopping(reduction=1), "reduction factor of 2 or more"),
        (lambda: lower_sweep(sweeping(Axis("method.lambda", (1,)))), "no field 'method.lambda'; it has: .*method.lam"),
        (lambda: lower_sweep(sweeping(Axis("method.lam", (-1.0,)))), "cannot be negative"),
        (lambda: lower_sweep(sweeping(LAM, base=dataclasses.replace(BASE, method=ZeroShot()))), "no field"),
        (lambda: lower_sweep(dataclasses.replace(sweeping(), trials=(BASE,))), "leave its trials out"),
        (lambda: lower(sweeping()), "has a sweep, which makes its trials"),
    ],
)
def test_a_wrong_sweep_is_refused_with_the_choices_before_anything_runs(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# What it is judged by


@pytest.mark.parametrize(
    ("protocol", "tasks", "split"),
    [("first-task-pair", 2, "validation"), ("end-of-stream", 3, "validation"), ("oracle", 3, "test")],
)
def test_only_the_oracle_looks_at_the_test_split(protocol: Any, tasks: int, split: str) -> None:
    swept = lower_sweep(sweeping(protocol=protocol)).lowered
    assert {step.config.split for step in swept.plan.steps if hasattr(step.config, "split")} == {split}
    assert {len(plan.tasks) for plan in swept.trials} == {tasks}
    assert "ORACLE" in swept.study.title if split == "test" else "validation" in swept.study.title


def test_the_best_on_validation_is_chosen_and_the_oracle_is_marked_in_table_and_report(tmp_path: Path) -> None:
    for protocol, words in (("end-of-stream", "The test split was not looked at"), ("oracle", "ORACLE")):
        study, store = sweeping(LAM, protocol=protocol), Store(tmp_path / protocol)
        fill(lower_sweep(study).lowered, store, lambda method, *_: 50.0 + method.lam)
        choice, best = chosen_in(study, store)
        assert choice.settings == {"method.lam": 1.0} and best == (1,)
        assert words in describe_protocol([choice])
    table = resolve(study, store).known_table()
    page = write_report(read_results(table, store), tmp_path / "report").read_text()
    assert "ORACLE" in page and "Protocol oracle" in page and "test AP" in page


def test_seeds_are_averaged_over_and_never_chosen(tmp_path: Path) -> None:
    study, store = sweeping(LAM, SEEDS, final=True), Store(tmp_path)

    def score(method: Any, task: str, row: int, column: int, seed: int) -> float:
        return {(0.1, 0): 90.0, (0.1, 1): 10.0, (1.0, 0): 60.0, (1.0, 1): 60.0}[method.lam, seed]

    fill(lower_sweep(study).lowered, store, score)
    choice, _ = chosen_in(study, store)
    assert [option.figure for option in choice.options] == [50.0, 60.0]
    assert choice.fields == ("method.lam",) and choice.averaged == ("seed",)
    table = resolve(study, store).known_table()
    assert [(plan.trial.method.lam, plan.trial.seed, plan.trial.split) for plan in table.trials] == [
        (1.0, 0, "test"),
        (1.0, 1, "test"),
    ]
    assert {plan.tasks for plan in table.trials} == {TASKS}


def test_before_the_sweep_is_finished_there_is_no_final_table(tmp_path: Path) -> None:
    study, store = sweeping(final=True), Store(tmp_path)
    resolved = resolve(study, store)
    assert resolved.provisional and resolved.search is not None
    with pytest.raises(ValueError, match="4 of 4 values have no figure yet"):
        resolved.known_table()
    assert resolved.plan.distinct < resolved.plan.requested


def test_while_a_sweep_is_open_its_table_is_counted_with_the_first_values(tmp_path: Path) -> None:
    study, store = sweeping(LAM, final=True), Store(tmp_path)
    lowered = lower_sweep(study).lowered
    fill(dataclasses.replace(lowered, trials=lowered.trials[1:]), store)
    resolved = resolve(study, store)
    assert resolved.choices[0].settings == {"method.lam": 1.0} and resolved.provisional
    assert [plan.trial.method.lam for plan in resolved.table.trials] == [0.1]
    fill(lowered, store, lambda method, *_: 50.0 + method.lam)
    resolved = resolve(study, store)
    assert not resolved.provisional and [plan.trial.method.lam for plan in resolved.table.trials] == [1.0]


def test_figures_so_far_are_those_of_a_stream_that_ends_there(tmp_path: Path) -> None:
    study, store = sweeping(LAM, protocol="end-of-stream"), Store(tmp_path)
    swept = lower_sweep(study)
    fill(swept.lowered, store, lambda method, task, row, column, seed: 60.0 - 10.0 * (row - column))
    result = read_results(swept.lowered, store).trials[0]
    assert metrics_after(result, 0)["AP"] == 60.0 and metrics_after(result, 0)["BWT"] is None
    assert metrics_after(result, 1)["AP"] == 55.0 and metrics_after(result, 1)["BWT"] == -10.0
    assert metrics_after(result, 2)["AP"] == pytest.approx(50.0)
    assert metrics_after(result, 2)["BWT"] == pytest.approx(-15.0)


# What a run leaves in the store


def test_a_trial_that_was_stopped_has_the_tasks_it_learned_and_no_place_in_the_table(tmp_path: Path) -> None:
    study, store = sweeping(LAM, protocol="end-of-stream", stopping=Stopping()), Store(tmp_path)
    sweep = study.sweep
    assert sweep is not None
    note_stopped(sweep, store, (0,), 1)
    note_stopped(sweep, store, (0,), 2)
    swept = lower_sweep(study, read_notes(sweep, store))
    assert swept.stopped == {0: 1}
    assert [plan.tasks for plan in swept.plans] == [TASKS[:1], TASKS]
    assert swept.plans[0].digest == lower_sweep(study).plans[0].digest
    fill(swept.lowered, store)
    choice, best = chosen_in(study, store)
    assert best == (1,) and choice.missing == 0 and choice.options[0].stopped_after == 1
    assert [plan.name for plan in resolve(study, store).known_table().trials] == ["lilora lam=1"]


def test_a_trial_that_failed_is_not_waited_for_and_one_that_then_succeeds_counts(tmp_path: Path) -> None:
    study, store = sweeping(LAM), Store(tmp_path)
    sweep = study.sweep
    assert sweep is not None
    note_failed(sweep, store, (1,), "toy trouble")
    choice, _ = chosen_in(study, store)
    assert [option.is_open for option in choice.options] == [True, False]
    fill(lower_sweep(study).lowered, store)
    choice, _ = chosen_in(study, store)
    assert [option.failed for option in choice.options] == ["", ""]


def test_what_optuna_suggested_is_read_back_in_order_and_bounded_before(tmp_path: Path) -> None:
    study = sweeping(Axis("method.lam", low=0.01, high=10.0, log=True), sampler="optuna", samples=3)
    store, sweep = Store(tmp_path), study.sweep
    assert sweep is not None
    assert lower_sweep(study).points == () and resolve(study, store).unasked == 3
    for place, lam in enumerate((0.5, 0.02, 0.5)):
        note_suggested(sweep, store, place, (lam,))
    assert read_notes(sweep, store).suggested == ((0.5,), (0.02,), (0.5,))
    swept = lower_sweep(study, read_notes(sweep, store))
    assert swept.points == ((0.5,), (0.02,))
    assert resolve(study, store).unasked == 0
    bound = upper_bound(study)
    # Two tasks: 2 data, 2 stages and 3 cells of two steps, three times over; the data once.
    assert (bound.requested.total(), bound.distinct.total()) == (3 * (2 + 2 + 6), 2 + 3 * (2 + 6))
    assert swept.lowered.plan.distinct <= bound.distinct.total()


def test_rungs_are_where_trials_are_compared() -> None:
    assert Stopping(1, 2).rungs(6) == (1, 2, 4, 6)
    assert Stopping(2, 3).rungs(4) == (2, 4)
    assert Stopping(4, 2).rungs(3) == (3,)


def test_a_point_is_named_by_its_trial_and_its_notes_are_small_json(tmp_path: Path) -> None:
    sweep = Sweep(toy_trial(), (Axis("method.level", low=1.0, high=9.0),), "random", samples=2)
    (first, second), store = points(sweep), Store(tmp_path)
    assert trial_digest(sweep, first) != trial_digest(sweep, second)
    assert name_at(sweep, first).startswith("toy level=")
    note_suggested(sweep, store, 0, first)
    (path,) = (tmp_path / "sweeps" / sweep.digest).iterdir()
    assert json.loads(path.read_text()) == {"point": list(first)}
    assert trial_at(sweep, first).method == Toy(level=first[0])
    assert truncated(lower_sweep(Study("toy", sweep=sweep)).plans[0], 1).after == ("ScienceQA",)
