"""A paper's order of methods holds here, does not, or is lost in the noise of the seeds."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.results.claims import claim_json, claims
from orchestrator.results.table import TableRow
from orchestrator.study import Paper
from orchestrator.study.metrics import Stat
from orchestrator.study.paper import PaperRow, read_rows


def row(name: str, ap: Stat | None) -> TableRow:
    return TableRow(name, (), metrics={"AP": ap})


def paper(**fields: object) -> Paper:
    rows = (PaperRow("SeqLoRA", (("AP", 46.21),)), PaperRow("LiLoRA", (("AP", 84.88),)))
    return Paper("a table", rows, focus="LiLoRA", **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seqlora", "lilora", "outcome"),
    [
        (Stat(30, 1, 3), Stat(60, 1, 3), "holds"),
        (Stat(60, 1, 3), Stat(30, 1, 3), "does not hold"),
        (Stat(30, 1, 3), Stat(32.2, 1, 3), "not decided"),  # 2.8 sqrt(1/3 + 1/3) = 2.286
        (Stat(30, 1, 3), Stat(32.3, 1, 3), "holds"),
        (Stat(30, None, 1), Stat(60, 1, 3), "not decided"),  # one seed, and no noise is known
        (None, Stat(60, 1, 3), "not finished"),
    ],
)
def test_a_difference_counts_beyond_28_tenths_of_its_standard_error(
    seqlora: Stat | None, lilora: Stat, outcome: str
) -> None:
    [claim] = claims(paper(), [row("seqlora", seqlora), row("lilora", lilora)])
    assert claim.outcome == outcome
    assert claim.paper == pytest.approx(38.67)


def test_noise_measured_elsewhere_stands_in_for_a_single_seed() -> None:
    rows = [row("seqlora", Stat(30, None, 1)), row("lilora", Stat(41, None, 1))]
    [claim] = claims(paper(noise=(("", (("AP", 2.0),)), ("LiLoRA", (("AP", 3.0),)))), rows)
    assert claim.threshold == pytest.approx(2.8 * (4 + 9) ** 0.5)
    assert claim.outcome == "holds"
    assert claim_json(claim)["outcome"] == "holds"


def test_a_table_with_other_rows_than_the_papers_is_refused() -> None:
    with pytest.raises(ValueError, match="2 rows are named for a table of 1"):
        claims(paper(), [row("lilora", None)])


def test_claims_may_be_about_pairs_of_rows() -> None:
    rows = tuple(
        PaperRow(label, (("AP", ap),)) for label, ap in (("a", 3.0), ("a less", 2.0), ("b", 5.0), ("b less", 4.0))
    )
    table = Paper("t", rows, pairs=(("a", "a less"), ("b", "b less")))
    found = claims(table, [row(theirs.label, Stat(theirs.figures[0][1], None, 1)) for theirs in rows])
    assert [(claim.focus, claim.other, claim.paper, claim.ours) for claim in found] == [
        ("a", "a less", 1.0, 1.0), ("b", "b less", 1.0, 1.0),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="a claim is about 'c'; its rows are: a, a less, b, b less"):
        claims(Paper("t", rows, pairs=(("a", "c"),)), [row(theirs.label, None) for theirs in rows])


def test_a_row_that_the_paper_lacks_makes_no_claim() -> None:
    [claim] = claims(
        Paper("t", (PaperRow("a", (("AP", 1.0),)), None, PaperRow("b", (("AP", 2.0),))), focus="b"),
        [row("a", None), row("ours", None), row("b", None)],
    )
    assert (claim.focus, claim.other) == ("b", "a")


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
