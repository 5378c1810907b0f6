"""Every shipped study lowers to a plan, and so does the paper's own setting where a study names it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from experiments import table1_five, table1_single
from experiments._paper import TRAINING
from experiments.controls import BACKBONE, ROWS
from experiments.proglora_table1 import proglora_table1
from lilora.costs.parameters import account
from lilora.methods.dirlora import DirLoRA
from lilora.methods.lilora import LiLoRA
from orchestrator.planning.lowering import Lowered
from orchestrator.resolving.catalogue import find_target, studies
from orchestrator.results.claims import claims
from orchestrator.results.reading import read_results
from orchestrator.results.table import table
from orchestrator.storage.store import Store
from orchestrator.study import Study
from orchestrator.study.naming import method_name

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
#: Of a study whose ranks are others than the papers': DirLoRA of equal storage.
RANKS = {"controls": (56, 64, 128)}
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
        "controls",
        "fig1",
        "fig3",
        "proglora_fig3",
        "proglora_fig5",
        "proglora_table1",
        "proglora_table10",
        "proglora_table11",
        "proglora_table12",
        "proglora_table13",
        "proglora_table2",
        "proglora_table3",
        "proglora_table5",
        "proglora_table9",
        "routing",
        "simple_rows",
        "table1_five",
        "table1_single",
        "table2",
        "table3",
        "table4",
        "table5",
    ]


def test_the_dirlora_of_equal_storage_stores_no_more_than_lilora() -> None:
    sites = BACKBONE.find_sites(BACKBONE.meta_model())
    stored = {str(method): account(method, sites, 6).total for method, _ in ROWS}
    small, lilora = stored[str(DirLoRA(rank=7, lora_alpha=14))], stored[str(LiLoRA())]
    assert (small, lilora) == (384_384, 409_172)
    assert account(DirLoRA(rank=8), sites, 6).total > lilora


#: Backbones, where there are others than LLaVA-1.5-7B.
REAL = {
    "table5": ("llava-1.5-7b", "qwen2-vl-2b"),
    "proglora_table5": ("qwen2-vl-7b",),
    "proglora_fig3": ("llava-1.5-7b", "llava-1.5-13b"),
}


@pytest.mark.parametrize("name", WITH_PAPER)
def test_the_papers_own_setting_has_a_plan_at_its_rank_on_its_backbone(name: str, tmp_path: Path) -> None:
    of_proglora = name.startswith("proglora")
    for lowered in tables(f"{EXPERIMENTS / name}.py:paper", Store(tmp_path)):
        for trial in lowered.study.trials:
            assert trial.backbone.name in REAL.get(name, ("llava-1.5-7b",))
            assert trial.stream.benchmark == ("coin" if of_proglora else "cvit")
            assert trial.training.batch_size == (384 if of_proglora else 64)
            assert getattr(trial.method, "rank", 128) in RANKS.get(name, (16, 64, 128) if of_proglora else (64, 128))
            assert trial.answer_dtype == ("float16" if "llava" in trial.backbone.name else "")
            assert trial.backbone.full if of_proglora else not trial.backbone.full
            assert getattr(trial.method, "width", 256) == 256, "what gives the 42M of ProgLoRA's Table 13"


def test_a_papers_own_setting_keeps_what_only_its_table_has_to_say(tmp_path: Path) -> None:
    for lowered in tables(f"{EXPERIMENTS / 'proglora_table5'}.py:paper", Store(tmp_path)):
        paper = lowered.study.paper
        assert paper is not None
        assert [caveat for caveat in paper.caveats if "Qwen-VL-7B" in caveat]
        assert not [caveat for caveat in paper.caveats if "miniature" in caveat]


def test_the_rows_of_one_mean_have_it_as_acc() -> None:
    """ProgLoRA's Table 1 prints the zero-shot and the multi-task mean in the column MAA."""
    paper = proglora_table1().paper
    assert paper is not None
    zero_shot, multi_task, lora = (row for row in paper.rows[:3] if row is not None)
    assert (zero_shot.get("ACC"), zero_shot.get("MAA"), multi_task.get("ACC")) == (7.12, None, 57.18)
    assert (lora.get("ACC"), lora.get("BWT_N"), lora.get("BWT")) == (28.74, -32.62, None)


@pytest.mark.parametrize("name", [name for name in WITH_PAPER if "table" in name or name.startswith("proglora")])
def test_a_papers_rows_are_those_of_the_table(name: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    for lowered in tables(name, store)[-1:]:
        paper = lowered.study.paper
        assert paper is not None
        found = claims(paper, table(read_results(lowered, store).trials))
        assert {(claim.focus, claim.other) for claim in found} == set(paper.claimed) != set()
        assert {claim.outcome for claim in found} == {"not finished"}


#: Rate, weight decay and schedule, as read in the releases' scripts.
READ = {
    "lilora": (2e-5, 0.01, "cosine"),
    "smolora": (1e-4, 0.01, "constant"),
    "moelora": (2e-4, 0.0, "constant"),
}


@pytest.mark.parametrize(
    ("paper", "released"),
    [(table1_single.paper(), table1_single.releases()), (table1_five.paper(), table1_five.releases())],
)
def test_a_row_with_a_release_trains_as_that_does_and_the_others_as_the_paper_says(
    paper: Study, released: Study
) -> None:
    assert released.name == paper.name.replace("-paper", "-releases")
    assert released.search == paper.search
    changed = set()
    for ours, theirs in zip(paper.trials, released.trials, strict=True):
        name = method_name(theirs.method)
        assert ours == replace(theirs, training=TRAINING)
        found = theirs.training.learning_rate, theirs.training.weight_decay, theirs.training.schedule
        assert found == READ.get(name, (2e-5, 0.0, "cosine"))
        assert theirs.training.betas == (0.9, 0.999)
        changed |= {name} if theirs.training != ours.training else set()
    assert changed == set(READ)
