"""A paper's order of methods holds here, does not, is lost in the noise of the seeds, or was not measured."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import polars
import pytest
from scipy import stats

from lilora.methods.dirlora import DirLoRA
from lilora.methods.lilora import LiLoRA
from lilora.methods.seqlora import SeqLoRA
from lilora.methods.zeroshot import ZeroShot
from orchestrator.planning.lowering import Lowered, lower
from orchestrator.results import reading
from orchestrator.results.claims import Claim, claim_json, claims, seeds_note
from orchestrator.results.reading import StudyResults, read_results
from orchestrator.results.statistics import item_interval
from orchestrator.results.table import TableRow, table
from orchestrator.storage.store import Store
from orchestrator.study import Paper
from orchestrator.study.metrics import Stat
from orchestrator.study.paper import PaperRow, read_rows
from tests.orchestrator.fake_results import fake_store, fake_study


def row(name: str, *ap: float, told: bool = False, first: int = 0) -> TableRow:
    """A row with these values of AP, the first of seed `first`."""
    by_seed = dict(enumerate(ap, first))
    return TableRow(name, (), metrics={"AP": Stat.of(ap)}, by_seed={"AP": by_seed}, needs_task_id=told)


def paper(*rows: PaperRow) -> Paper:
    rows = rows or (PaperRow("SeqLoRA", (("AP", 46.21),)), PaperRow("LiLoRA", (("AP", 84.88),)))
    return Paper("a table", rows, focus="LiLoRA")


@pytest.mark.parametrize(
    ("seqlora", "lilora", "outcome"),
    [
        ((29, 30, 31), (59, 60, 61), "holds"),
        ((59, 60, 61), (29, 30, 31), "does not hold"),
        # Variances of 1: a standard error of sqrt(2/3), four degrees of freedom, t 2.776: 2.267 decides.
        ((29, 30, 31), (31.25, 32.25, 33.25), "not decided"),
        ((29, 30, 31), (31.3, 32.3, 33.3), "holds"),
        ((29, 30), (59, 60, 61), "holds"),
        ((30,), (59, 60, 61), "not measured"),
        ((30,), (60,), "not measured"),
        ((), (59, 60, 61), "not finished"),
    ],
)
def test_a_claim_alone_is_decided_by_welchs_t(
    seqlora: tuple[float, ...], lilora: tuple[float, ...], outcome: str
) -> None:
    [claim] = claims(paper(), [row("seqlora", *seqlora), row("lilora", *lilora)])
    assert claim.outcome == outcome
    assert claim.paper == pytest.approx(38.67)


def test_a_table_by_hand() -> None:
    """Three claims about LiLoRA, each with p by Welch's t, and by Holm times 3, 2 and 1 in their order.

    LiLoRA 60, 62, 64: mean 62, variance 4. Against 40, 41, 42 (mean 41, variance 1): t = 21 / sqrt(5/3) = 16.27 at
    50/17 degrees. Against 55, 56, 57: t = 6 / sqrt(5/3) = 4.648. Against 58, 60, 62 (variance 4): t = 2 / sqrt(8/3) =
    1.225 at 4. The paper has the last the other way round.
    """
    table_of = paper(
        *(PaperRow(label, (("AP", ap),)) for label, ap in (("LiLoRA", 3.0), ("a", 1.0), ("b", 2.0), ("c", 4.0)))
    )
    rows = [row("lilora", 60, 62, 64), row("a", 40, 41, 42), row("b", 55, 56, 57), row("c", 58, 60, 62)]
    first, second, third = claims(table_of, rows)
    p = [2 * stats.t.sf(t, degrees) for t, degrees in ((16.2665, 50 / 17), (4.6476, 50 / 17), (1.2247, 4))]
    assert p == pytest.approx([0.00057, 0.0195, 0.288], abs=5e-4)
    assert [claim.here.test.p for claim in (first, second, third) if claim.here.test] == pytest.approx(p, rel=1e-3)
    holm = [3 * p[0], 2 * p[1], p[2]]
    assert [claim.here.adjusted for claim in (first, second, third)] == pytest.approx(holm, rel=1e-3)
    assert [claim.outcome for claim in (first, second, third)] == ["holds", "holds", "not decided"]
    # In pairs: 20, 21, 22 differ from 0 by t = 21 sqrt(3).
    assert first.here.test is not None
    assert first.here.test.paired == pytest.approx(2 * stats.t.sf(21 * math.sqrt(3), 2))
    answer = claim_json(second)
    assert (answer["ours"], answer["seeds_focus"], answer["outcome"]) == (6.0, 3, "holds")
    assert answer["p_holm"] == pytest.approx(2 * answer["p"])
    assert answer["low"] == pytest.approx(6 - 3.22 * math.sqrt(5 / 3), abs=0.01)


def test_holms_family_is_all_claims_of_the_study_finished_or_not() -> None:
    """0.0195 of a claim is decided alone, and not where two more are yet to be made."""
    wanted = (("LiLoRA", 3.0), ("b", 2.0), ("one seed", 1.0), ("to come", 1.0))
    labels = [PaperRow(label, (("AP", ap),)) for label, ap in wanted]
    rows = [row("lilora", 60, 62, 64), row("b", 55, 56, 57), row("one seed", 10), row("to come")]
    [alone] = claims(paper(*labels[:2]), rows[:2])
    among, single, missing = claims(paper(*labels), rows)
    assert (alone.outcome, among.outcome, single.outcome, missing.outcome) == (
        "holds", "not decided", "not measured", "not finished",
    )  # fmt: skip
    assert alone.here.adjusted is not None
    assert among.here.adjusted == pytest.approx(3 * alone.here.adjusted)


def test_rows_of_other_seeds_are_not_in_pairs() -> None:
    same, other = (
        claims(paper(), [row("seqlora", 29, 30, 31), row("lilora", 59, 61, 63, first=first)])[0].here.test
        for first in (0, 1)
    )
    assert same is not None
    assert other is not None
    assert same.p == other.p
    assert (same.paired is None, other.paired is None) == (False, True)


@pytest.mark.parametrize(
    ("seqlora", "lilora", "verdict"),
    [
        (False, True, "holds, told against not told"),
        (True, False, "holds, not told against told"),
        (True, True, "holds"),
        (False, False, "holds"),
    ],
)
def test_a_verdict_says_where_one_row_alone_is_told_the_task(seqlora: bool, lilora: bool, verdict: str) -> None:
    [claim] = claims(paper(), [row("seqlora", 29, 30, 31, told=seqlora), row("lilora", 59, 60, 61, told=lilora)])
    assert (claim.verdict, claim.outcome) == (verdict, "holds")


def test_of_a_claim_that_is_not_finished_there_is_nothing_to_be_told() -> None:
    [claim] = claims(paper(), [row("seqlora"), row("lilora", 59, 60, 61, told=True)])
    assert claim.verdict == "not finished"


def test_the_note_asks_for_three_seeds_where_a_row_has_fewer() -> None:
    known = claims(paper(), [row("seqlora", 29, 30, 31), row("lilora", 59, 60, 61)])
    few = claims(paper(), [row("seqlora", 29, 30, 31), row("lilora", 59, 60)])
    assert "all 1 claims, is at most 0.05" in seeds_note(known)
    assert "seeds a row are asked for" not in seeds_note(known)
    assert "3 seeds a row are asked for; 1 of the claims are about a row of fewer" in seeds_note(few)
    assert seeds_note([]) == ""


def test_a_table_with_other_rows_than_the_papers_is_refused() -> None:
    with pytest.raises(ValueError, match="2 rows are named for a table of 1"):
        claims(paper(), [row("lilora")])


def test_claims_may_be_about_pairs_of_rows() -> None:
    rows = tuple(
        PaperRow(label, (("AP", ap),)) for label, ap in (("a", 3.0), ("a less", 2.0), ("b", 5.0), ("b less", 4.0))
    )
    table_of = Paper("t", rows, pairs=(("a", "a less"), ("b", "b less")))
    found = claims(table_of, [row(theirs.label, theirs.figures[0][1]) for theirs in rows])
    assert [(claim.focus, claim.other, claim.paper, claim.here.points) for claim in found] == [
        ("a", "a less", 1.0, 1.0), ("b", "b less", 1.0, 1.0),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="a claim is about 'c'; its rows are: a, a less, b, b less"):
        claims(Paper("t", rows, pairs=(("a", "c"),)), [row(theirs.label) for theirs in rows])


def test_a_row_that_the_paper_lacks_makes_no_claim() -> None:
    [claim] = claims(
        Paper("t", (PaperRow("a", (("AP", 1.0),)), None, PaperRow("b", (("AP", 2.0),))), focus="b"),
        [row("a"), row("ours"), row("b")],
    )
    assert (claim.focus, claim.other) == ("b", "a")


TASKS = ("ScienceQA", "TextVQA")


def of_items(folder: Path, seeds: tuple[int, ...] = (0, 1, 2)) -> tuple[Lowered, Store]:
    """Zero-shot, SeqLoRA and LiLoRA on two tasks, with their items; LiLoRA's last items are 20 points up from SeqLoRA's
    where an item's number is odd, and 10 elsewhere.
    """
    methods = (SeqLoRA(), LiLoRA(lam=1.0))
    study = fake_study(methods, seeds, TASKS)
    zero = dataclasses.replace(study.trials[0], method=ZeroShot())
    labels = (PaperRow("Zero-shot", (("AP", 20.0),)), *paper().rows)
    study = dataclasses.replace(study, trials=(zero, *study.trials), paper=paper(*filter(None, labels)))
    lowered = lower(study)

    def score(method: object, task: str, row: int, column: int, seed: int) -> float:
        return {SeqLoRA: 40.0 + seed, LiLoRA: 55.0 + seed, ZeroShot: 1.0}[type(method)]

    store = fake_store(folder, lowered, score=score)
    for trial in lowered.trials:
        seed = trial.trial.seed
        for (_, column), (_, step) in trial.cells.items():
            base = {"seqlora": (40, 40), "lilora": (50, 60), "zeroshot": (1 - seed,) * 2}[trial.name.split()[0]]
            size = (10, 30)[column]
            polars.DataFrame(
                {
                    "id": [f"{trial.tasks[column]} {place}" for place in range(size)],
                    "main": [(base[place % 2] + seed) / 100 for place in range(size)],
                }
            ).write_parquet(store.fetch(step.digest) / "items.parquet")
    return lowered, store


def judged(results: StudyResults) -> dict[tuple[str, str], Claim]:
    assert results.lowered.study.paper is not None
    found = claims(results.lowered.study.paper, table(results.trials), results.items)
    return {(claim.other, claim.here.metric): claim for claim in found}


def test_ap_has_an_interval_over_the_items_that_judged_both_rows(tmp_path: Path) -> None:
    results = read_results(*of_items(tmp_path))
    claim = judged(results)["SeqLoRA", "AP"]
    assert claim.here.points == pytest.approx(15.0)
    assert claim.here.items == item_interval([[10.0, 20.0] * 5, [10.0, 20.0] * 15])
    # Five of each in one task, fifteen of each in the other: a standard error of sqrt(25/10 + 25/30) / 2.
    half = 1.96 * math.sqrt(25 / 10 + 25 / 30) / 2
    assert claim.here.items.low == pytest.approx(15 - half, abs=0.25)
    assert claim.here.items.high == pytest.approx(15 + half, abs=0.25)
    assert claim_json(claim)["items_low"] == claim.here.items.low


def test_the_items_of_a_cell_have_its_score_as_their_mean_with_absent_questions_as_wrong(tmp_path: Path) -> None:
    lowered, store = of_items(tmp_path, seeds=(0,))
    digest = lowered.trials[2].cells[1, 0][1].digest
    text = store.fetch(digest) / "scores.json"
    text.write_text(
        text.read_text().replace('"count"', '"absent": 10, "count"').replace('"main": 55.0', '"main": 27.5')
    )
    items = read_results(lowered, store).items[digest]
    assert len(items.names) == 10
    assert sum(items.scores) / 10 == pytest.approx(27.5)


def test_items_are_read_when_claims_are_judged_and_not_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lowered, store = of_items(tmp_path, seeds=(0,))
    read: list[str] = []
    monkeypatch.setattr(reading, "read_items", lambda store, scores: read.extend(scores) or {})
    results = read_results(lowered, store)
    assert read == []
    judged(results)
    assert len(read) == 3 * 2, "of three trials the last cells of two tasks"


def test_a_score_that_is_no_mean_over_items_has_no_interval_over_them(tmp_path: Path) -> None:
    lowered, store = of_items(tmp_path)
    cell = lowered.trials[1].cells[1, 0][1].digest
    path = store.fetch(cell) / "scores.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"item_mean": 12.0}))
    results = read_results(lowered, store)
    assert cell not in results.items
    claim = judged(results)["SeqLoRA", "AP"]
    assert claim.here.items is None and claim.outcome == "holds"


def test_without_all_items_there_is_a_verdict_and_no_interval(tmp_path: Path) -> None:
    lowered, store = of_items(tmp_path)
    lost = store.fetch(lowered.trials[1].cells[1, 0][1].digest) / "items.parquet"
    lost.write_bytes(lost.read_bytes()[:-4])
    found = judged(read_results(lowered, store))
    assert (found["SeqLoRA", "AP"].here.items, found["SeqLoRA", "AP"].outcome) == (None, "holds")
    assert found["Zero-shot", "AP"].here.items is not None


def test_rows_that_other_items_judged_have_no_interval(tmp_path: Path) -> None:
    lowered, store = of_items(tmp_path, seeds=(0,))
    path = store.fetch(lowered.trials[1].cells[1, 1][1].digest) / "items.parquet"
    polars.read_parquet(path).with_columns(id=polars.col("id") + "'").write_parquet(path)
    assert judged(read_results(lowered, store))["SeqLoRA", "AP"].here.items is None


def test_zero_shot_has_no_seeds_and_no_noise_and_is_tested_against(tmp_path: Path) -> None:
    claim = judged(read_results(*of_items(tmp_path)))["Zero-shot", "AP"]
    assert claim.here.seeds == (3, 0)
    assert "asked for" not in seeds_note([claim])
    assert claim.here.test is not None
    assert claim.here.test.p == pytest.approx(stats.ttest_1samp((55.0, 56.0, 57.0), 1.0).pvalue)
    assert claim.outcome == "holds"


def test_one_seed_of_what_is_trained_is_not_measured_even_against_zero_shot(tmp_path: Path) -> None:
    found = judged(read_results(*of_items(tmp_path, seeds=(0,))))
    assert {claim.outcome for claim in found.values()} == {"not measured"}
    assert found["SeqLoRA", "AP"].here.items is not None


def test_a_row_that_is_told_and_cannot_forget_is_told_against_not_told(tmp_path: Path) -> None:
    study = fake_study((SeqLoRA(), DirLoRA(), LiLoRA()), (0, 1, 2), TASKS)
    labels = (*paper().rows[:1], PaperRow("DirLoRA", (("AP", 90.0),)), *paper().rows[1:])
    lowered = lower(dataclasses.replace(study, paper=paper(*filter(None, labels))))
    found = judged(read_results(lowered, fake_store(tmp_path, lowered)))
    assert found["SeqLoRA", "AP"].verdict == "holds, told against not told"
    assert found["DirLoRA", "AP"].verdict == found["DirLoRA", "AP"].outcome


def test_reference_rows_are_found_by_their_columns_and_must_be_one(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(
        "setting,method,AP,MAP\nsingle,Zero-shot,22.3,\nsingle,LiLoRA,84.88,87.7\nfive,LiLoRA,84.94,87.43\n"
    )
    wanted = [("ours", {"method": "LiLoRA", "setting": "single"}), None, ("0", {"method": "Zero-shot"})]
    assert read_rows(path, wanted) == (
        PaperRow("ours", (("AP", 84.88), ("MAP", 87.7))),
        None,
        PaperRow("0", (("AP", 22.3),)),
    )
    with pytest.raises(ValueError, match=r"t.csv has 2 lines with .*Columns: setting, method, AP, MAP"):
        read_rows(path, [("ours", {"method": "LiLoRA"})])
    with pytest.raises(ValueError, match=r"t.csv has 0 lines"):
        read_rows(path, [("ours", {"method": "Lilora"})])
