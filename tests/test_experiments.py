"""Every shipped study lowers to a plan, and so does the paper's own setting where a study names it."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.planning.lowering import Lowered
from orchestrator.resolving.catalogue import find_target, studies
from orchestrator.results.claims import claims
from orchestrator.results.reading import read_results
from orchestrator.results.table import table
from orchestrator.storage.store import Store

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
WITH_PAPER = [path.stem for path in sorted(EXPERIMENTS.glob("*.py")) if "\ndef paper()" in path.read_text()]


def tables(name: str, store: Store) -> list[Lowered]:
    resolved = find_target(name).resolve(store)
    return [lowered for lowered in (resolved.search, resolved.table) if lowered is not None]


@pytest.mark.parametrize("name", studies())
def test_every_experiment_has_a_plan(name: str, tmp_path: Path) -> None:
    target = find_target(name)
    if not target.has_trials:
        assert len(target.plan.steps) > 0
        return
    for lowered in tables(name, Store(tmp_path)):
        assert lowered.plan.distinct > 0


def test_the_papers_tables_and_figures_are_here() -> None:
    assert WITH_PAPER == [
        "fig1",
        "fig3",
        "simple_rows",
        "table1_five",
        "table1_single",
        "table2",
        "table3",
        "table4",
        "table5",
    ]


@pytest.mark.parametrize("name", WITH_PAPER)
def test_the_papers_own_setting_has_a_plan_at_its_rank_on_its_backbone(name: str, tmp_path: Path) -> None:
    for lowered in tables(f"{EXPERIMENTS / name}.py:paper", Store(tmp_path)):
        for trial in lowered.study.trials:
            assert trial.backbone.name in (("llava-1.5-7b", "qwen2-vl-2b") if name == "table5" else ("llava-1.5-7b",))
            assert trial.training.batch_size == 64
            assert getattr(trial.method, "rank", 128) in (128, 64)


@pytest.mark.parametrize("name", [name for name in WITH_PAPER if name.startswith("table")])
def test_a_papers_rows_are_those_of_the_table(name: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    for lowered in tables(name, store)[-1:]:
        paper = lowered.study.paper
        assert paper is not None
        found = claims(paper, table(read_results(lowered, store).trials))
        assert {claim.focus for claim in found} == {paper.focus}
        assert {claim.outcome for claim in found} == {"not finished"}
