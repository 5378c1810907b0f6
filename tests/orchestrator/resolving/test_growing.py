"""A search whose grid goes on while its best value lies at the edge."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

import lilora.stages
from lilora.methods.lilora import LiLoRA
from orchestrator.cli.phases import Phase, asked_for, together
from orchestrator.execution.events import Outcome
from orchestrator.planning.lowering import Lowered, lower
from orchestrator.report import write_report
from orchestrator.report.blocks.choices import curve
from orchestrator.resolving.catalogue import Target
from orchestrator.resolving.keeping import digests_of
from orchestrator.resolving.questions import search_study
from orchestrator.resolving.resolve import resolve
from orchestrator.results.reading import read_results
from orchestrator.storage.store import Store
from orchestrator.study import Candidates, Search, Study
from tests.orchestrator.cli.test_cli import answer, folder, lilora_, quick  # noqa: F401
from tests.orchestrator.fake_results import fill
from tests.orchestrator.resolving.test_search import LAM, STUDY, by_lam, searching

GROWING = Candidates("lilora", "method.lam", (0.1, 1.0, 10.0), beyond=(0.01, 100.0, 1000.0))


def after(study: Study, store: Store, score: Any) -> list[tuple[float, ...]]:
    """The values that a search has tried each time it stopped, until it goes on no more; each time it is run."""
    seen: list[tuple[float, ...]] = []
    while not seen or len(resolve(study, store).choices[0].options) > len(seen[-1]):
        resolved = resolve(study, store)
        seen.append(tuple(option.values[0] for option in resolved.choices[0].options))
        assert resolved.search is not None
        fill(resolved.search, store, score)
    return seen


@pytest.mark.parametrize(
    ("figures", "tried", "edges"),
    [
        ({0.1: 60.0, 1.0: 70.0, 10.0: 60.0}, [(0.1, 1.0, 10.0)], ()),
        ({0.1: 60.0, 1.0: 70.0, 10.0: 80.0, 100.0: 75.0}, [(0.1, 1.0, 10.0), (0.1, 1.0, 10.0, 100.0)], ()),
        ({0.1: 90.0, 0.01: 95.0}, [(0.1, 1.0, 10.0), (0.1, 1.0, 10.0, 0.01)], ("method.lam",)),
        (
            {10.0: 60.0, 100.0: 70.0, 1000.0: 80.0},
            [(0.1, 1.0, 10.0), (0.1, 1.0, 10.0, 100.0), (0.1, 1.0, 10.0, 100.0, 1000.0)],
            ("method.lam",),
        ),
    ],
)
def test_the_grid_goes_on_while_the_best_lies_at_its_edge(
    figures: dict[float, float], tried: list[tuple[float, ...]], edges: tuple[str, ...], tmp_path: Path
) -> None:
    study, store = searching(Search((GROWING,)), (LiLoRA(),), (3,)), Store(tmp_path)
    assert after(study, store, by_lam(figures)) == tried
    resolved = resolve(study, store)
    [choice] = resolved.choices
    best = max(figures, key=lambda lam: figures[lam])
    assert not resolved.provisional and choice.settings == {"method.lam": best} and choice.edges == edges
    assert {trial.trial.method.lam for trial in resolved.table.trials} == {best}
    ranked = sorted(figures, key=lambda lam: -figures[lam])
    assert choice.runner_up is not None
    assert choice.runner_up.values[0] == (ranked[1] if len(ranked) > 1 else next(v for v in tried[-1] if v != best))


def test_a_grid_of_two_fields_goes_on_in_every_combination(tmp_path: Path) -> None:
    rate = Candidates("lilora", "training.learning_rate", (1e-3, 3e-3), beyond=(3e-4,))
    study, store = searching(Search((rate, GROWING)), (LiLoRA(),), (3,)), Store(tmp_path)
    first = resolve(study, store)
    assert first.search is not None and len(first.choices[0].options) == 6
    fill(first.search, store, by_lam({10.0: 90.0}))
    # A tie goes to what is listed first: 1e-3, which is an edge too.
    second = resolve(study, store)
    assert second.provisional and len(second.choices[0].options) == 12 and second.choices[0].missing == 6
    assert {option.values for option in second.choices[0].options[6:]} == {
        (3e-4, 0.1), (3e-4, 1.0), (3e-4, 10.0), (3e-4, 100.0), (1e-3, 100.0), (3e-3, 100.0),
    }  # fmt: skip


def test_an_unfinished_or_failed_grid_does_not_go_on(tmp_path: Path) -> None:
    study, store = searching(Search((GROWING,)), (LiLoRA(),), (3,)), Store(tmp_path)
    searched = lower(search_study(study))
    fill(dataclasses.replace(searched, trials=searched.trials[1:]), store, by_lam({10.0: 90.0}))
    assert len(resolve(study, store).choices[0].options) == 3


@pytest.mark.parametrize("beyond", [(5.0,), (0.1,), ("wide",), (True,), (100.0, 100.0)])
def test_what_a_grid_goes_on_with_lies_beyond_it(beyond: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match="goes on with numbers"):
        Candidates("lilora", "method.lam", (0.1, 1.0, 10.0), beyond)
    with pytest.raises(ValueError, match="goes on with numbers"):
        Candidates("lilora", "method.shared_a", (0.5, "frozen"), beyond)


def test_the_report_draws_the_validation_curve_and_names_the_runner_up(tmp_path: Path) -> None:
    rate = Candidates("lilora", "training.learning_rate", (1e-3, 3e-3))
    study, store = searching(Search((rate, LAM)), (LiLoRA(),), (3,)), Store(tmp_path)
    searched = resolve(study, store).search
    assert searched is not None
    fill(searched, store, by_lam({1.0: 81.25, 10.0: 90.5}))
    resolved = resolve(study, store)
    fill(resolved.table, store)
    page = write_report(read_results(resolved.known_table(), store), tmp_path / "report").read_text()
    section = page[page.index("Hyper-parameters") :]
    assert "0.003, 10: 90.50; learning_rate, lam at the edge of its grid" in section
    assert section.count("<svg") >= 1 and "learning_rate 0.003" in section
    panel = curve(resolved.choices[0])
    assert panel is not None and panel.stages == ("0.1", "1", "10")
    assert [line.means for line in panel.lines] == [(50.0, 81.25, 90.5)] * 2


@pytest.fixture
def growing(quick: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    """A study whose grid goes on from 10 to 100 and to 1000, which is worse."""
    text = STUDY.replace("seeking", "growing").replace("(0.1, 1.0, 10.0))", "(0.1, 1.0, 10.0), (100.0, 1000.0, 1e4))")
    (quick / "experiments" / "growing.py").write_text(text)
    plain = lilora.stages.train

    def train(config: Any, inputs: Any, out: Path, run: Any) -> dict[str, Any]:
        kept = {0.1: 1, 1.0: 2, 10.0: 3, 100.0: 4, 1000.0: 1}[config.method.lam]
        return plain(dataclasses.replace(config, seed=kept), inputs, out, run)

    monkeypatch.setattr(lilora.stages, "train", train)
    yield quick
    sys.modules.pop("growing", None)


def test_run_goes_on_searching_counts_each_step_once_and_runs_nothing_again(growing: Path) -> None:
    assert answer("plan", "growing")["at_least"] and "it takes this at least" in lilora_("plan", "growing").stdout
    first = answer("run", "growing", "--tracking", "none")
    assert not answer("plan", "growing")["at_least"]
    [choice] = first["choices"]
    assert choice["chosen"] == {"method.lam": 100.0} and choice["edges"] == []
    assert [item["method.lam"] for item in choice["candidates"]] == [0.1, 1.0, 10.0, 100.0, 1000.0]
    assert (first["distinct"], first["reused"], first["failed"]) == (first["run"], 0, 0)
    again = answer("run", "growing", "--tracking", "none")
    assert (again["run"], again["reused"]) == (0, first["distinct"])
    assert again["choices"] == first["choices"] and again["trials"] == first["trials"]
    shown = lilora_("run", "growing", "--tracking", "none").stdout
    assert "and 1 more" in shown and "100" in shown


def test_a_value_that_fails_in_one_row_lets_another_go_on_and_is_tried_once(
    growing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (growing / "experiments" / "growing.py").read_text()
    text = text.replace("(Trial(ZeroShot(), BACKBONE, STREAM),", "(Trial(SeqLoRA(), BACKBONE, STREAM),")
    text = text.replace("import ZeroShot", "import ZeroShot\nfrom lilora.methods.seqlora import SeqLoRA")
    rate = 'Candidates("seqlora", "training.learning_rate", (1e-3, 3e-3)),'
    (growing / "experiments" / "growing.py").write_text(text.replace("Search((", f"Search(({rate}"))
    plain, tried = lilora.stages.train, []

    def train(config: Any, inputs: Any, out: Path, run: Any) -> dict[str, Any]:
        if isinstance(config.method, LiLoRA):
            return plain(config, inputs, out, run)
        tried.append(config.training.learning_rate)
        if config.training.learning_rate == 3e-3:
            raise RuntimeError("the loss is not a number")
        return plain(dataclasses.replace(config, method=LiLoRA(lam=0.1)), inputs, out, run)

    monkeypatch.setattr(lilora.stages, "train", train)
    found = answer("run", "growing", "--tracking", "none", code=1)
    rates, lams = found["choices"]
    assert (rates["chosen"], lams["chosen"]) == ({}, {"method.lam": 100.0})
    assert [item["method.lam"] for item in lams["candidates"]] == [0.1, 1.0, 10.0, 100.0, 1000.0]
    assert [(trial["name"], trial["missing"]) for trial in found["trials"]] == [("lilora", 0)]
    assert (found["failed"], tried.count(3e-3)) == (1, 1)
    parts = ("reused", "run", "failed", "blocked")
    assert found["distinct"] == sum(found[part] for part in parts)


def test_of_a_search_that_went_on_the_last_phase_is_what_was_asked_for(tmp_path: Path) -> None:
    study, store = searching(Search((GROWING,)), (LiLoRA(),), (3,)), Store(tmp_path)
    phases = []
    for figures in ({10.0: 90.0}, {100.0: 95.0, 1000.0: 50.0}):
        searched = resolve(study, store).search
        assert searched is not None
        phases.append(phase_of(searched))
        fill(searched, store, by_lam(figures))
    resolved = resolve(study, store)
    assert resolved.search is not None
    phases.append(phase_of(resolved.search))
    phases.append(phase_of(resolved.table))
    assert [len(phase.lowered.trials) for phase in phases if phase.lowered] == [3, 4, 5, 1]
    assert asked_for(phases) == (phases[2], phases[3])
    assert together(phases).requested == resolved.plan.requested


def phase_of(lowered: Lowered) -> Phase:
    plan = lowered.plan
    return Phase(plan, Outcome(plan.requested, plan.distinct, plan.distinct), (), lowered)


def test_what_an_open_search_had_grown_to_is_kept(tmp_path: Path) -> None:
    study, store = searching(Search((GROWING,)), (LiLoRA(),), (3,)), Store(tmp_path)
    after(study, store, by_lam({10.0: 60.0, 100.0: 70.0, 1000.0: 80.0}))
    resolved = resolve(study, store)
    assert resolved.search is not None and not resolved.provisional
    grown = {trial.name: trial for trial in resolved.search.trials}
    # A first value's score is lost: the search is open again, and does not know how far it went.
    _, lost = grown["lilora lam=0.1"].cells[1, 0]
    shutil.rmtree(store.path(lost.digest))
    open_again = resolve(study, store)
    assert open_again.provisional and open_again.search is not None and len(open_again.search.trials) == 3
    kept = digests_of(Target("rows", study), store)
    assert kept >= resolved.plan.by_digest.keys()
    assert kept >= resolved.table.plan.by_digest.keys()
