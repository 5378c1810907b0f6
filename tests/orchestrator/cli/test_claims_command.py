"""`lilora claims`: every claim of the papers' tables, judged by a store, in the terminal, as JSON and on one page."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.resolving.catalogue import find_target
from orchestrator.storage.store import Store
from tests.orchestrator.cli.test_cli import answer, complaint, folder, lilora_  # noqa: F401
from tests.orchestrator.fake_results import fill

STUDY = """
from lilora.backbones import Backbone
from lilora.benchmarks import Stream
from lilora.methods.lilora import LiLoRA
from lilora.methods.seqlora import SeqLoRA
from lilora.methods.zeroshot import ZeroShot
from orchestrator.study import Paper, Study, Trial
from orchestrator.study.paper import PaperRow

BACKBONE = Backbone("toy", "1")
STREAM = Stream(tasks=("ImageNet", "VQAv2"))


def judged() -> Study:
    trials = [Trial(ZeroShot(), BACKBONE, STREAM)]
    trials += [Trial(method, BACKBONE, STREAM, seed=seed) for method in (SeqLoRA(), LiLoRA()) for seed in (0, 1, 2)]
    rows = [PaperRow(name, (("AP", value),)) for name, value in (("zero", 20.0), ("Seq", 40.0), ("LiLoRA", 80.0))]
    return Study("judged", tuple(trials), paper=Paper("a paper, Table 9", tuple(rows), "LiLoRA", ("A caveat.",)))
"""


@pytest.fixture
def judged(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:  # noqa: F811
    (folder / "experiments" / "judged.py").write_text(STUDY)
    monkeypatch.setenv("LILORA_STORE", str(folder / "store"))
    yield Store(folder / "store")
    sys.modules.pop("judged", None)


def finish(store: Store) -> None:
    """LiLoRA at 80 and SeqLoRA at 60, with a point or two of noise; zero-shot at 79.9."""
    means = {"ZeroShot": 79.9, "SeqLoRA": 60.0, "LiLoRA": 80.0}
    score = lambda method, task, row, column, seed: means[type(method).__name__] + 0.4 * seed  # noqa: E731
    fill(find_target("judged").study(store), store, score)


def test_each_claim_is_a_statement_with_its_figures_interval_seeds_and_verdict(judged: Store) -> None:
    finish(judged)
    [study] = answer("claims", "judged")["studies"]
    assert (study["study"], study["source"]) == ("judged", "a paper, Table 9")
    found = {claim["statement"]: claim for claim in study["claims"]}
    assert set(found) == {"AP(LiLoRA) > AP(zero)", "AP(LiLoRA) > AP(Seq)"}
    against = found["AP(LiLoRA) > AP(Seq)"]
    assert against["outcome"] == "holds" and against["ours"] == pytest.approx(20) and against["paper"] == 40
    assert against["low"] < 20 < against["high"] and against["p_holm"] < 0.05
    assert (against["seeds_focus"], against["seeds_other"]) == (3, 3)
    assert found["AP(LiLoRA) > AP(zero)"]["outcome"] == "not decided"
    assert study["counts"] == {"not decided": 1, "holds": 1}
    shown = " ".join(lilora_("claims", "judged").stdout.split())
    assert "AP(LiLoRA) > AP(Seq)" in shown and "told against not told" in shown and "3 seeds" not in shown


def test_one_page_has_all_of_them_and_names_what_was_not_run(judged: Store, tmp_path: Path) -> None:
    out = tmp_path / "pages" / "claims.html"
    before = answer("claims", "judged", "table2", "--out", str(out))
    assert [study["counts"] for study in before["studies"]] == [{"not run": 2}, {"not run": 12}]
    page = out.read_text()
    assert page.count("Not run in this store") == 2 and "lilora run table2" in page and before["page"] == str(out)
    finish(judged)
    lilora_("claims", "judged", "--out", str(out))
    page = out.read_text()
    assert "AP(LiLoRA) &gt; AP(Seq)" in page and "+20.0" in page and "A caveat." in page and "Holm" in page
    assert "Not run" not in page and "<script" not in page and "http" not in page.replace("http-equiv", "")


def test_without_a_name_all_studies_with_a_paper_are_judged(judged: Store) -> None:
    finish(judged)
    found = answer("claims")
    names = [study["study"] for study in found["studies"]]
    assert {"judged", "table1_single", "proglora_table1"} <= set(names) and "quickstart" not in names
    shown = lilora_("claims").stdout
    assert "not run in this store:" in shown and "table2" in shown.partition("not run in this store:")[2]
    assert Path(found["page"]).is_file()


def test_a_study_without_a_paper_says_which_have_one(judged: Store) -> None:
    said = complaint("claims", "quickstart")
    assert "'quickstart' reproduces no paper's table; these do:" in said and "judged" in said
    assert "no study 'table9'" in complaint("claims", "table9")


def test_a_table_whose_search_is_not_finished_is_not_run(judged: Store) -> None:
    [study] = answer("claims", "table1_single")["studies"]
    assert set(study["counts"]) == {"not run"}


def test_a_file_that_cannot_be_read_is_named_and_ends_nothing(judged: Store, folder: Path) -> None:  # noqa: F811
    (folder / "experiments" / "broken.py").write_text("import no_such_package_here\n")
    (folder / "experiments" / "no_study_of_claims.py").write_text("VALUE = 3\n")
    found = answer("claims")
    assert found["unreadable"].keys() == {"broken"}
    assert "judged" in {study["study"] for study in found["studies"]}
    assert "broken cannot be read" in lilora_("claims").stdout


def test_what_was_not_run_is_said_in_the_same_words_in_the_terminal_and_on_the_page(judged: Store) -> None:
    shown = lilora_("claims", "judged").stdout
    assert "not run" in shown and "not finished" not in shown
    assert "not finished" not in Path(answer("claims", "judged")["page"]).read_text()
