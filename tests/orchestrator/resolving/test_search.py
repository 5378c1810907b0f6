from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import lilora.stages
from lilora.benchmarks import Stream
from lilora.methods.dirlora import DirLoRA
from lilora.methods.lilora import LiLoRA
from lilora.methods.seqlora import SeqLoRA
from lilora.methods.zeroshot import ZeroShot
from lilora.training import Training
from orchestrator.planning.lowering import lower
from orchestrator.report import write_report
from orchestrator.resolving.catalogue import find_target
from orchestrator.resolving.choosing import choose, table_study
from orchestrator.resolving.questions import questions, search_study
from orchestrator.resolving.resolve import resolve, settled_table
from orchestrator.resolving.swept import lower_sweep
from orchestrator.results.reading import read_results
from orchestrator.results.table import table
from orchestrator.storage.store import Store
from orchestrator.study import Axis, Candidates, Figure, Paper, Search, Study, Sweep, Trial
from orchestrator.study.naming import method_name
from orchestrator.study.paper import PaperRow
from orchestrator.study.trial import bind
from tests.orchestrator.cli.test_cli import ROOT, answer, complaint, folder, lilora_, quick  # noqa: F401
from tests.orchestrator.fake_results import BACKBONE, fill

TASKS = ("ScienceQA", "TextVQA", "Flickr30k")
LAM = Candidates("lilora", "method.lam", (0.1, 1.0, 10.0))
RATE = Candidates("seqlora", "training.learning_rate", (1e-3, 3e-3))


def searching(search: Search | None = None, methods: tuple[Any, ...] = (), seeds: tuple[int, ...] = (3, 4)) -> Study:
    """Zero-shot, SeqLoRA and LiLoRA on three tasks and two seeds, searched by default for a rate and a weight."""
    trials = [
        Trial(method, BACKBONE, Stream(tasks=TASKS), seed=seed)
        for method in methods or (ZeroShot(), SeqLoRA(), LiLoRA())
        for seed in seeds
    ]
    return Study("rows", tuple(trials), search=search or Search((LAM, RATE)))


def by_lam(figures: dict[float, float]) -> Any:
    """A score for LiLoRA by its lam, 50 for the others."""
    return lambda method, task, row, column, seed: figures.get(getattr(method, "lam", None), 50.0)


def found(study: Study, store: Store) -> Any:
    return choose(questions(study), read_results(lower(search_study(study)), store).trials)


def chosen(study: Study, options: tuple[int, ...]) -> Study:
    """The table with this option of each row."""
    asked = questions(study)
    points = [question.point(option) for question, option in zip(asked, options, strict=True)]
    return table_study(study, asked, points, choose(asked))


# What is searched


def test_a_search_has_a_trial_for_each_value_on_validation_of_the_first_pair_with_the_first_seed() -> None:
    searched = search_study(searching())
    assert searched.name == "rows-search"
    assert {(trial.split, trial.stream.tasks, trial.seed) for trial in searched.trials} == {
        ("validation", TASKS[:2], 3)
    }
    assert [
        (method_name(trial.method), trial.training.learning_rate, getattr(trial.method, "lam", None))
        for trial in searched.trials
    ] == [("seqlora", 1e-3, None), ("seqlora", 3e-3, None), *(("lilora", 1e-3, lam) for lam in (0.1, 1.0, 10.0))]


def test_no_step_of_a_search_reads_the_test_split_or_a_later_task() -> None:
    plan = lower(search_study(searching())).plan
    assert {step.config.split for step in plan.steps if hasattr(step.config, "split")} == {"validation"}
    assert {step.config.task for step in plan.steps} == set(TASKS[:2])


def test_the_other_protocol_learns_the_whole_stream() -> None:
    searched = search_study(searching(Search((LAM,), "end-of-stream")))
    assert {trial.stream.tasks for trial in searched.trials} == {TASKS}


def test_two_fields_of_a_method_are_tried_in_every_combination() -> None:
    rate = dataclasses.replace(RATE, method="lilora")
    searched = search_study(searching(Search((LAM, rate))))
    assert len({(trial.method, trial.training) for trial in searched.trials}) == 6
    [choice] = choose(questions(searching(Search((LAM, rate)))))
    assert choice.fields == ("method.lam", "training.learning_rate")
    assert choice.options[1].values == (0.1, 3e-3)


def test_task_orders_that_begin_with_the_same_pair_share_their_search() -> None:
    orders = (TASKS, (*TASKS[:2], "GQA", TASKS[2]), TASKS[::-1])
    trials = tuple(Trial(LiLoRA(), BACKBONE, Stream(tasks=order)) for order in orders)
    study = Study("orders", trials, search=Search((LAM,)))
    assert len(search_study(study).trials) == 6
    assert [choice.tasks for choice in choose(questions(study))] == [TASKS[:2], TASKS[:2], TASKS[:0:-1]]


def test_each_variant_of_a_method_is_searched_for_itself(tmp_path: Path) -> None:
    study = searching(Search((LAM,)), (LiLoRA(), LiLoRA(task_rank=4)))
    store = Store(tmp_path)

    def score(method: Any, *_: Any) -> float:
        return 60.0 if method.lam == (0.1 if method.task_rank else 10.0) else 50.0

    fill(lower(search_study(study)), store, score)
    assert [choice.settings["method.lam"] for choice in found(study, store)] == [10.0, 0.1]


@pytest.mark.parametrize(
    ("search", "message"),
    [
        (Search((dataclasses.replace(LAM, method="dirlora"),)), "searches for 'dirlora', and has: lilora, seqlora"),
        (Search((dataclasses.replace(LAM, field="method.lambda"),)), "no field 'method.lambda'; it has: .*method.lam,"),
        (Search((dataclasses.replace(LAM, values=(-1.0,)),)), "cannot be negative"),
    ],
)
def test_a_search_that_does_not_fit_the_study_is_refused_before_anything_runs(search: Search, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve(searching(search))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Candidates("lilora", "backbone.name", ("a",)), "written 'method.NAME' or 'training.NAME'"),
        (lambda: Candidates("lilora", "method.lam", ()), "one value or more"),
        (lambda: Candidates("lilora", "method.lam", (1.0, 1.0)), "each once"),
        (lambda: Search((LAM,), "oracle"), "no protocol 'oracle'; there are: first-task-pair, end-of-stream"),
        (lambda: Search((LAM,), metric="F1"), "no metric 'F1'"),
        (lambda: Search(()), "needs candidates"),
        (lambda: Search((LAM, LAM)), "one list of values for each field"),
    ],
)
def test_a_wrong_search_lists_the_choices(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_rows_that_differ_only_in_what_is_searched_are_refused() -> None:
    with pytest.raises(ValueError, match="twice but for method.lam, which is searched"):
        search_study(searching(Search((LAM,)), (LiLoRA(lam=0.1), LiLoRA(lam=2.0))))


def test_a_study_with_a_search_is_not_lowered_as_if_it_had_none() -> None:
    with pytest.raises(ValueError, match="has a search"):
        lower(searching())


# What is chosen


def test_the_highest_validation_figure_is_chosen(tmp_path: Path) -> None:
    study, store = searching(), Store(tmp_path)
    fill(lower(search_study(study)), store, by_lam({0.1: 60.0, 1.0: 80.0, 10.0: 70.0}))
    rate, lam = found(study, store)
    assert lam.settings == {"method.lam": 1.0}
    assert [option.figure for option in lam.options] == [60.0, 80.0, 70.0]
    assert (lam.name, lam.protocol, lam.metric, lam.tasks, lam.seed) == (
        "lilora",
        "first-task-pair",
        "AP",
        TASKS[:2],
        3,
    )
    assert rate.name == "seqlora"


def test_a_tie_goes_to_the_value_listed_first(tmp_path: Path) -> None:
    study, store = searching(Search((dataclasses.replace(LAM, values=(10.0, 0.1, 1.0)),))), Store(tmp_path)
    fill(lower(search_study(study)), store, by_lam({0.1: 70.0, 10.0: 70.0, 1.0: 69.9}))
    assert found(study, store)[0].settings == {"method.lam": 10.0}


def test_a_value_that_is_not_finished_is_never_chosen_and_is_counted(tmp_path: Path) -> None:
    study, store = searching(Search((LAM,))), Store(tmp_path)
    lowered = lower(search_study(study))
    without_best = dataclasses.replace(lowered, trials=lowered.trials[:2])
    fill(without_best, store, by_lam({0.1: 60.0, 1.0: 50.0, 10.0: 90.0}))
    [choice] = found(study, store)
    assert (choice.settings, choice.missing) == ({"method.lam": 0.1}, 1)
    assert resolve(study, store).provisional
    with pytest.raises(ValueError, match=r"not finished \(1 of 3 values"):
        resolve(study, store).known_table()


def test_nothing_is_chosen_of_nothing() -> None:
    for choice in choose(questions(searching())):
        assert choice.best is choice.best_place is None and choice.settings == {} and not choice.is_settled


def test_a_metric_that_a_method_has_not_is_refused_before_anything_runs() -> None:
    rate = dataclasses.replace(RATE, method="zeroshot")
    with pytest.raises(ValueError, match="zeroshot has no order of tasks and no BWT to be chosen by; take AP"):
        search_study(searching(Search((rate,), metric="BWT")))
    one = Trial(LiLoRA(), BACKBONE, Stream(tasks=TASKS[:1]))
    with pytest.raises(ValueError, match="BWT needs two tasks or more"):
        search_study(Study("one", (one,), search=Search((LAM,), metric="BWT")))


def test_a_metric_that_a_scorer_does_not_give_is_refused_once_a_trial_is_finished(tmp_path: Path) -> None:
    study, store = searching(Search((LAM,), metric="AP lenient")), Store(tmp_path)
    lowered = lower(search_study(study))
    fill(lowered, store, by_lam({}))
    results = [
        dataclasses.replace(result, scores={cell: said | {"lenient": None} for cell, said in result.scores.items()})
        for result in read_results(lowered, store).trials
    ]
    with pytest.raises(ValueError, match="has no AP lenient to be chosen by; take AP, or leave it out"):
        choose(questions(study), results)


def test_every_seed_of_a_row_gets_what_was_chosen_and_rows_without_a_search_stay(tmp_path: Path) -> None:
    study, store = searching(), Store(tmp_path)
    fill(lower(search_study(study)), store, by_lam({10.0: 90.0}))
    after = resolve(study, store).table.study
    assert after.search is None
    assert [trial.seed for trial in after.trials] == [trial.seed for trial in study.trials]
    assert after.trials[:4] == study.trials[:4]
    assert [trial.method for trial in after.trials[4:]] == [LiLoRA(lam=10.0)] * 2
    assert {trial.split for trial in after.trials} == {"test"}


def test_test_scores_in_the_store_change_no_choice(tmp_path: Path) -> None:
    study, store = searching(Search((LAM,))), Store(tmp_path)
    fill(lower(search_study(study)), store, by_lam({1.0: 80.0}))
    before = found(study, store)
    for lam in LAM.values:
        fill(lower(searching_with(study, lam)), store, by_lam({10.0: 100.0, 0.1: 100.0, 1.0: 0.0}))
    assert found(study, store) == before
    assert before[0].settings == {"method.lam": 1.0}


def searching_with(study: Study, lam: float) -> Study:
    trials = tuple(
        dataclasses.replace(trial, method=LiLoRA(lam=lam)) if isinstance(trial.method, LiLoRA) else trial
        for trial in study.trials
    )
    return Study("by-hand", trials)


def test_rows_keep_their_plain_names_whatever_was_chosen(tmp_path: Path) -> None:
    study, store = searching(), Store(tmp_path)
    fill(lower(search_study(study)), store, lambda method, *_: 50.0)
    lowered = lower(chosen(study, (1, 2)))
    assert [row.name for row in table(read_results(lowered, store).trials)] == ["zeroshot", "seqlora", "lilora"]
    assert lowered.trials[2].trial.training.learning_rate == 3e-3
    assert lowered.trials[4].bound.parameters["method.lam"] == 10.0


def test_the_table_takes_over_the_stages_of_the_value_that_was_chosen(tmp_path: Path) -> None:
    study, store = searching(Search((LAM,)), (LiLoRA(),), (0,)), Store(tmp_path)
    searched = lower(search_study(study))
    fill(searched, store, by_lam({10.0: 90.0}))
    stages = resolve(study, store).table.trials[0].stages
    assert [stage.digest for stage in stages[:2]] == [stage.digest for stage in searched.trials[2].stages]


def test_before_the_search_the_table_is_counted_with_the_first_values() -> None:
    resolved = resolve(searching(Search((LAM,)), (LiLoRA(lam=7.0),), (0,)))
    assert resolved.provisional
    assert [plan.trial.method for plan in resolved.table.trials] == [LiLoRA(lam=0.1)]
    assert resolved.table.study == chosen(searching(Search((LAM,)), (LiLoRA(lam=7.0),), (0,)), (0,))
    assert resolved.search is not None
    union = {step.digest for plan in (resolved.search.plan, resolved.table.plan) for step in plan.steps}
    assert resolved.plan.distinct == len(union) < resolved.search.plan.distinct + resolved.table.plan.distinct
    assert resolved.plan.requested == resolved.search.plan.requested + resolved.table.plan.requested


def test_the_report_says_what_was_chosen_among_what_and_by_which_protocol(tmp_path: Path) -> None:
    study, store = searching(), Store(tmp_path)
    fill(lower(search_study(study)), store, by_lam({0.1: 61.25, 1.0: 82.75, 10.0: 70.0}))
    page = write_report(read_results(resolve(study, store).known_table(), store), tmp_path / "report")
    html = page.read_text()
    assert "Protocol first-task-pair: the highest AP on the validation split after learning ScienceQA, TextVQA" in html
    assert "<b>1: 82.75</b>" in html
    assert "0.1: 61.25 ·" in html
    machine = json.loads((page.parent / "choices.json").read_text())[1]
    assert (machine["protocol"], machine["split"], machine["chosen"]) == (
        "first-task-pair",
        "validation",
        {"method.lam": 1.0},
    )
    assert machine["candidates"][2] == {"method.lam": 10.0, "AP": 70.0}


# A search is sweeps


@pytest.mark.parametrize("protocol", ["first-task-pair", "end-of-stream"])
@pytest.mark.parametrize("metric", ["AP", "BWT"])
def test_a_search_and_the_same_sweep_written_by_hand_have_equal_steps_and_choose_the_same(
    tmp_path: Path, protocol: Any, metric: str
) -> None:
    rate = dataclasses.replace(RATE, method="lilora")
    searched = searching(Search((LAM, rate), protocol, metric), (LiLoRA(),))
    axes = tuple(Axis(item.field, item.values) for item in (LAM, rate))
    # Which rows are scored is how a search saves work, not what its trials are.
    scored: Any = "last" if metric == "AP" else "each"
    base = Trial(LiLoRA(), BACKBONE, Stream(tasks=TASKS), seed=3, scored=scored)
    swept = Study("swept", sweep=Sweep(base, axes, protocol=protocol, metric=metric, final=True))
    store = Store(tmp_path)
    lowered = lower(search_study(searched))
    assert [step.digest for step in lowered.plan.steps] == [
        step.digest for step in lower_sweep(swept).lowered.plan.steps
    ]
    # No figure knows the rate, so each weight's two rates tie: the one listed first is chosen.
    fill(lowered, store, lambda method, task, row, column, seed: 90.0 - abs(method.lam - 1.0) - (row - column))
    of_search, of_sweep = resolve(searched, store), resolve(swept, store)
    (ours,), (by_hand,) = of_search.choices, of_sweep.choices
    assert [option.figure for option in ours.options] == [option.figure for option in by_hand.options]
    assert None not in {option.figure for option in ours.options}
    alike = ("method", "fields", "options", "protocol", "metric", "tasks", "seed", "split", "averaged", "settings")
    assert [getattr(ours, name) for name in alike] == [getattr(by_hand, name) for name in alike]
    assert (ours.name, ours.sweep, by_hand.name, by_hand.sweep) == ("lilora", False, "swept", True)
    assert ours.settings == {"method.lam": 1.0, "training.learning_rate": 1e-3}
    # The table of a search has every seed of its row; a sweep's has those that it averages over, here the base's.
    assert of_search.table.trials[0].trial == dataclasses.replace(of_sweep.table.trials[0].trial, scored="each")
    assert [trial.trial.seed for trial in of_search.table.trials] == [3, 4]


# The commands

STUDY = """
from lilora.backbones import Backbone
from lilora.benchmarks import Stream
from lilora.methods.lilora import LiLoRA
from lilora.methods.zeroshot import ZeroShot
from orchestrator.study.search import Candidates, Search
from orchestrator.study import Study, Trial

BACKBONE = Backbone("toy", "1")
STREAM = Stream(tasks=("ImageNet", "VQAv2", "GQA"))


def seeking() -> Study:
    trials = (Trial(ZeroShot(), BACKBONE, STREAM), Trial(LiLoRA(), BACKBONE, STREAM))
    search = Search((Candidates("lilora", "method.lam", (0.1, 1.0, 10.0)),))
    return Study("seeking", trials, search=search)
"""


@pytest.fixture
def seeking(quick: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    """A study with a search, and stages whose result depends on lam: 1 is the best."""
    (quick / "experiments" / "seeking.py").write_text(STUDY)
    plain = lilora.stages.train

    def train(config: Any, inputs: Any, out: Path, run: Any) -> dict[str, Any]:
        kept = {0.1: 1, 1.0: 4, 10.0: 2}[config.method.lam]
        return plain(dataclasses.replace(config, seed=kept), inputs, out, run)

    monkeypatch.setattr(lilora.stages, "train", train)
    yield quick
    sys.modules.pop("seeking", None)


def run(*more: str, code: int = 0) -> dict[str, Any]:
    return answer("run", "seeking", "--tracking", "none", *more, code=code)


def test_run_searches_first_and_makes_the_table_with_what_was_chosen(seeking: Path) -> None:
    first = run()
    assert first["choices"][0]["chosen"] == {"method.lam": 1.0}
    assert [item["AP"] for item in first["choices"][0]["candidates"]] == [65.0, 80.0, 70.0]
    zero, lilora_trial = first["trials"]
    assert lilora_trial["name"] == "lilora"
    assert lilora_trial["matrix"] == [[90.0, None, None], [70.0, 90.0, None], [70.0, 70.0, 90.0]]
    # One first stage for all, a second one for each lam, the third of the chosen one.
    table_plan = find_target("seeking").study(Store(seeking / "store")).plan
    assert len(table_plan.select("train")) == 3
    assert (first["distinct"], first["reused"], first["failed"]) == (first["run"], 0, 0)
    assert answer("plan", "seeking")["by_kind"]["train"] == 5


def test_a_second_run_runs_nothing_and_chooses_the_same(seeking: Path) -> None:
    first, second = run(), run()
    assert (second["run"], second["reused"]) == (0, first["distinct"])
    assert second["choices"] == first["choices"]
    assert second["trials"] == first["trials"]


def test_run_prints_the_choice_with_each_candidates_figure(seeking: Path) -> None:
    shown = lilora_("run", "seeking", "--tracking", "none").stdout
    for text in ("method.lam", "0.1: 65.00  1: 80.00  10: 70.00", "Protocol first-task-pair", "0 failed"):
        assert text in shown


def test_plan_says_whether_the_table_is_known_yet(seeking: Path) -> None:
    before = answer("plan", "seeking")
    assert before["provisional"]
    assert before["to_run"] == before["distinct"]
    assert "counted with the first value of each" in lilora_("plan", "seeking").stdout
    assert sum(before["requested_by_kind"].values()) == before["requested"]
    done = run()
    after = answer("plan", "seeking")
    assert not after["provisional"]
    assert (after["requested"], after["distinct"], after["to_run"]) == (done["requested"], done["distinct"], 0)
    assert not answer("plan", "little")["provisional"]


def break_at_ten(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Let every stage with lambda 10 fail; gives the training as it was."""
    plain = lilora.stages.train

    def breaks_at_ten(config: Any, *arguments: Any) -> Any:
        if config.method.lam == 10.0:
            raise RuntimeError("the loss is not a number")
        return plain(config, *arguments)

    monkeypatch.setattr(lilora.stages, "train", breaks_at_ten)
    return plain


def test_where_every_row_has_a_value_that_failed_the_table_is_not_run_and_run_says_why(
    seeking: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = break_at_ten(monkeypatch)
    path = seeking / "experiments" / "seeking.py"
    path.write_text(STUDY.replace("(Trial(ZeroShot(), BACKBONE, STREAM), ", "(*[], "))
    result = lilora_("run", "seeking", "--tracking", "none", code=1)
    assert "the loss is not a number" in result.stdout
    assert "the table is not run, since values of their search failed: lilora (1 of 3)" in result.stdout
    stopped = run(code=1)
    assert (stopped["study"], stopped["trials"]) == ("seeking", [])
    assert (stopped["failed"], stopped["choices"][0]["chosen"]) == (1, {})
    status = answer("status", "seeking")
    assert status["provisional"]
    assert [trial["cells_done"] for trial in status["trials"]] == [2, 2, 0]
    assert "(1 of 3 values have no figure yet)" in complaint("report", "seeking")
    monkeypatch.setattr(lilora.stages, "train", plain)
    mended = run()
    assert mended["reused"] > 0
    assert mended["choices"][0]["chosen"] == {"method.lam": 1.0}


def test_a_value_that_fails_keeps_its_row_out_of_the_table_and_no_other(
    seeking: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_at_ten(monkeypatch)
    shown = lilora_("run", "seeking", "--tracking", "none", code=1).stdout
    assert "these rows are left out of the table, since values of their search failed: lilora (1 of 3)" in shown
    found_run = run(code=1)
    assert [(trial["name"], trial["missing"]) for trial in found_run["trials"]] == [("zeroshot", 0)]
    parts = ("reused", "run", "failed", "blocked")
    assert (found_run["distinct"], found_run["failed"]) == (sum(found_run[part] for part in parts), 1)


def test_what_fails_in_the_search_and_again_in_the_table_counts_once(
    seeking: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = lilora.stages.build_task

    def no_pictures(config: Any, *arguments: Any) -> Any:
        if config.task == "VQAv2":
            raise RuntimeError("no pictures")
        return plain(config, *arguments)

    monkeypatch.setattr(lilora.stages, "build_task", no_pictures)
    found_run = run(code=1)
    assert [failure["label"] for failure in found_run["failures"]] == ["build mini VQAv2"]
    parts = ("reused", "run", "failed", "blocked")
    assert (found_run["distinct"], found_run["failed"]) == (sum(found_run[part] for part in parts), 1)
    # Zero-shot needs nothing of the search, and is finished but for the task without pictures.
    assert [(trial["name"], trial["missing"]) for trial in found_run["trials"]] == [("zeroshot", 1)]


def test_the_rows_that_are_left_keep_their_names_figures_and_lines_of_the_paper(tmp_path: Path) -> None:
    study, store = searching(Search((LAM,)), (SeqLoRA(), LiLoRA(), LiLoRA(task_rank=4)), (3,)), Store(tmp_path)
    rows = tuple(PaperRow(label, (("AP", 50.0),)) for label in ("Seq", "Plain", "Four"))
    figures = (Figure("fusion", 1, title="gone"), Figure("fusion", 2, title="kept"))
    study = dataclasses.replace(study, paper=Paper("a table", rows), figures=figures)
    searched = lower(search_study(study))
    fill(dataclasses.replace(searched, trials=searched.trials[1:]), store, by_lam({10.0: 90.0}))
    left = settled_table(study, questions(study), found(study, store))
    assert left is not None
    assert [plan.group for plan in left.trials] == ["seqlora", "lilora task_rank=4"]
    assert [row.label for row in left.study.paper.rows if row] == ["Seq", "Four"]
    assert [(figure.title, figure.trial) for figure in left.study.figures] == [("kept", 1)]
    assert left.trials[1].trial.method == LiLoRA(task_rank=4, lam=10.0)
    assert "Left out, since a value of its search failed: lilora task_rank=None" in left.study.description
    assert left.plan.requested == sum(left.requested_by_kind.values())


def test_a_search_that_is_interrupted_gives_130_and_says_how_to_go_on(
    seeking: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(lilora.stages, "train", stopped)
    shown = lilora_("run", "seeking", "--tracking", "none", code=130).stdout
    assert "To go on: lilora run seeking" in shown
    assert "the table" not in shown
    interrupted = run(code=130)
    assert (interrupted["study"], interrupted["trials"]) == ("seeking", [])


def test_status_why_and_report_work_on_the_chosen_table(seeking: Path) -> None:
    run()
    status = answer("status", "seeking")
    assert [trial["cells"] for trial in status["trials"]] == [3, 6]
    found_step = answer("why", "train lilora 3/3 GQA, seed 0", "--study", "seeking")
    assert found_step["identity"]["config"]["method"]["lam"] == 1.0
    assert Path(answer("report", "seeking")["report"]).parent.name == "seeking"


def test_the_search_is_tracked_as_a_study_of_its_own(seeking: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracked: list[str] = []
    tracking = SimpleNamespace(
        Tracker=lambda lowered, reader, uri, remedy, origin: tracked.append(lowered.study.name) or (lambda event: None),
        track=lambda lowered, reader, uri, origin, register: tracked.append(lowered.study.name),
    )
    monkeypatch.setitem(sys.modules, "orchestrator.tracking.listener", tracking)
    assert answer("track", "seeking")["tracked"] == ["seeking-search"]
    lilora_("run", "seeking")
    assert answer("track", "seeking")["tracked"] == ["seeking-search", "seeking"]
    assert tracked == ["seeking-search", "seeking-search", "seeking", "seeking-search", "seeking"]


# The studies of the paper's Table 1


PAPER_ROWS = [
    "Zero-shot", "DirLoRA", "SeqLoRA", "DoRA", "MoeLoRA", "C-LoRA", "Replay", "EWC", "EWC+TIR", "Eproj", "SMoLoRA",
    "LiLoRA", None,
]  # fmt: skip


def test_table_1_has_the_papers_rows_and_the_same_search_for_each_method() -> None:
    study = find_target("table1_single").asked
    assert study is not None
    rows = list(dict.fromkeys(method_name(trial.method) for trial in study.trials))
    assert [row and row.label for row in study.paper.rows] == PAPER_ROWS
    names = [choice.name for choice in choose(questions(study))]
    assert [name.partition(" ")[0] for name in names] == [*rows[1:], "smolora"]
    assert names[-1] == "smolora routers=every instruction=whole"
    trials = {method_name(trial.method): trial for trial in study.trials}
    for choice in choose(questions(study)):
        trial = trials[choice.method]
        # The rate, and the weight of a method that has one; both go on at their edges.
        assert choice.fields[0] == "training.learning_rate" and len(choice.options) in (5, 9)
        assert (len(choice.options) == 9) == (len(choice.fields) == 2)
        # The values listed first are the defaults, so a tie changes nothing.
        assert choice.options[0].values == tuple(bind(trial).parameters[name] for name in choice.fields)
    assert all(item.beyond for item in study.search.candidates)


def test_table_1_with_five_templates_has_the_same_rows_at_the_rates_that_all_tables_share() -> None:
    five, single = find_target("table1_five").asked, find_target("table1_single").asked
    assert five is not None and single is not None and five.search is None
    assert [row and row.label for row in five.paper.rows] == PAPER_ROWS
    kinds = [[(type(trial.method), trial.seed) for trial in study.trials] for study in (five, single)]
    assert kinds[0] == kinds[1]
    assert {trial.stream.instructions for trial in five.trials} == {"five"}
    # With one template these rows are `table5`'s own.
    rows = {(trial.method, trial.training) for trial in five.trials}
    assert {(trial.method, trial.training) for trial in find_target("table5").asked.trials} < rows


@pytest.mark.parametrize("name", ["table1_single", "table1_five"])
def test_table_1_in_the_papers_setting_plans(name: str) -> None:
    found_study = find_target(f"{ROOT}/experiments/{name}.py:paper").resolve(None)
    assert {plan.trial.backbone.name for plan in found_study.table.trials} == {"llava-1.5-7b"}
    assert {plan.trial.training.batch_size for plan in found_study.table.trials} == {64}
    assert found_study.plan.distinct > 500
    assert Training().learning_rate not in {plan.trial.training.learning_rate for plan in found_study.table.trials}
    assert DirLoRA(rank=128, lora_alpha=256, dropout=0.05) in {plan.trial.method for plan in found_study.table.trials}


@pytest.mark.parametrize(("metric", "rows"), [("AP", {1}), ("MIF", {1}), ("BWT", {0, 1}), ("MAP", {0, 1})])
def test_a_search_scores_only_the_rows_that_its_metric_is_read_off(metric: str, rows: set[int]) -> None:
    trial = Trial(LiLoRA(), BACKBONE, Stream(tasks=("ImageNet", "VQAv2", "GQA")))
    study = Study("rows", (trial,), search=Search((Candidates("lilora", "method.lam", (0.1, 1.0)),), metric=metric))
    for plan in lower(search_study(study)).trials:
        assert {row for row, _ in plan.cells} == rows


# Two protocols side by side


def by_tasks_and_lam(method: Any, task: str, row: int, column: int, seed: int) -> float:
    """LiLoRA with lam 10 is best after two tasks, and with lam 1 after three."""
    lam = getattr(method, "lam", 0.1)
    return {0.1: 50.0, 1.0: 60.0, 10.0: 80.0}[lam] - (0 if row < 2 or lam < 10 else 40)


def test_what_another_protocol_chooses_otherwise_is_a_row_beside(tmp_path: Path) -> None:
    search = Search((LAM, RATE), beside="end-of-stream")
    paper = Paper("a table", tuple(PaperRow(name, (("AP", 50.0),)) for name in ("zero", "Seq", "LiLoRA")))
    study, store = dataclasses.replace(searching(search), paper=paper), Store(tmp_path)
    first = resolve(study, store)
    assert [choice.name for choice in first.choices] == [
        "seqlora", "lilora", "seqlora (end-of-stream)", "lilora (end-of-stream)",
    ]  # fmt: skip
    assert first.search is not None and first.provisional and len(first.table.trials) == 6
    fill(first.search, store, by_tasks_and_lam)
    resolved = resolve(study, store)
    lilora, beside = resolved.choices[1], resolved.choices[3]
    assert (lilora.settings, beside.settings) == ({"method.lam": 10.0}, {"method.lam": 1.0})
    assert (lilora.protocol, beside.protocol) == ("first-task-pair", "end-of-stream")
    # Both protocols chose the same rate for SeqLoRA: one row. LiLoRA has one more, with each of its seeds.
    names = [plan.group for plan in resolved.table.trials]
    assert names == ["zeroshot"] * 2 + ["seqlora"] * 2 + ["lilora"] * 2 + ["lilora (end-of-stream)"] * 2
    assert {plan.name for plan in resolved.table.trials[-2:]} == {
        "lilora seed 3 (end-of-stream)", "lilora seed 4 (end-of-stream)",
    }  # fmt: skip
    assert [plan.trial.method.lam for plan in resolved.table.trials[-4:]] == [10.0, 10.0, 1.0, 1.0]
    fill(resolved.table, store)
    page = write_report(read_results(resolved.known_table(), store), tmp_path / "report").read_text()
    assert "Protocol first-task-pair" in page and "Protocol end-of-stream" in page
    assert "lilora (end-of-stream)" in page


def test_a_row_that_is_left_out_takes_no_row_beside_with_it(tmp_path: Path) -> None:
    study, store = searching(Search((LAM,), beside="end-of-stream"), (LiLoRA(),), (3,)), Store(tmp_path)
    searched = resolve(study, store).search
    assert searched is not None
    # The pair of tasks was learned with two of three values, all tasks with each: 0.1, with which rows are named, won.
    whole = tuple(plan for plan in searched.trials if plan.tasks == TASKS)
    pairs = tuple(plan for plan in searched.trials if plan.tasks != TASKS)
    assert (len(whole), len(pairs)) == (3, 3)
    fill(dataclasses.replace(searched, trials=(*pairs[:2], *whole)), store, by_lam({0.1: 90.0}))
    resolved = resolve(study, store)
    assert [choice.missing for choice in resolved.choices] == [1, 0]
    left = settled_table(study, resolved.questions, resolved.choices)
    assert left is not None
    assert [(plan.group, plan.trial.method.lam) for plan in left.trials] == [("lilora (end-of-stream)", 0.1)]


def test_protocols_side_by_side_differ() -> None:
    with pytest.raises(ValueError, match="is the same; name another"):
        Search((LAM,), beside="first-task-pair")
    with pytest.raises(ValueError, match="no protocol 'oracle'"):
        Search((LAM,), beside="oracle")  # type: ignore[arg-type]
