"""What a page shows beside its table: losses, cases, differences, costs, each by a number that is worked by hand."""

from __future__ import annotations

import base64
import dataclasses
import io
from pathlib import Path

import pytest
from PIL import Image

from lilora.methods.lilora import LiLoRA
from lilora.methods.seqlora import SeqLoRA
from lilora.methods.zeroshot import ZeroShot
from orchestrator.execution.workers.memory import PeakMemory
from orchestrator.planning.lowering import TrialPlan, lower
from orchestrator.report import evidence as reading
from orchestrator.report.blocks.costs import dots, kind_costs, row_costs
from orchestrator.report.blocks.differences import ALL_PAIRS, METRICS, difference_block, row_pairs
from orchestrator.report.blocks.losses import loss_panels
from orchestrator.report.blocks.routing import allocation_blocks
from orchestrator.report.digests import MOST, made_by, of_cell, of_metric
from orchestrator.report.evidence import Evidence, read_evidence
from orchestrator.report.evidence.cases import MOST_CASES, SIDE, small_picture
from orchestrator.report.style import SHORT, styles
from orchestrator.results.reading import StudyResults, read_results
from orchestrator.results.table import table
from orchestrator.storage.store import Store
from tests.orchestrator.fake_answers import RIGHT, answer_store, right
from tests.orchestrator.fake_results import fake_store, fake_study

TASKS = ("ScienceQA", "TextVQA", "Flickr30k")
#: Tasks whose answers are written by hand.
ANSWERED = ("ScienceQA", "GQA", "VQAv2")
NUM_ITEMS = sum(len(RIGHT[task]) for task in ANSWERED)


@pytest.fixture
def study(tmp_path: Path) -> tuple[StudyResults, Store]:
    lowered = lower(fake_study((ZeroShot(), SeqLoRA(), LiLoRA()), seeds=(0, 1), tasks=TASKS))
    store = fake_store(tmp_path, lowered)
    return read_results(lowered, store), store


def test_a_loss_curve_is_the_mean_of_what_the_rows_stages_noted(study: tuple[StudyResults, Store]) -> None:
    results, store = study
    rows = table(results.trials)
    panels = loss_panels(rows, styles(rows), read_evidence(results, store).histories)
    assert [panel.title for panel in panels] == ["1 ScienceQA", "2 TextVQA", "3 Flickr30k"]
    for panel in panels:
        assert [curve.name for curve in panel.curves] == ["seqlora", "lilora"]
        assert panel.curves[0].steps == tuple(range(1, 21))
        assert panel.curves[0].losses == pytest.approx([3.0 / step for step in range(1, 21)])
        assert panel.curves[0].about.count(",") == 1


def test_of_a_large_study_no_evidence_is_read_and_the_page_says_so(
    study: tuple[StudyResults, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "MOST_ROWS", 2)
    monkeypatch.setattr(reading, "read_cases", lambda *_: pytest.fail("answers were read"))
    found = read_evidence(*study)
    assert found == Evidence(left_out=True)
    assert difference_block(table(study[0].trials), found) is None


def test_the_cost_of_a_kind_adds_up_its_records_and_has_the_most_memory(study: tuple[StudyResults, Store]) -> None:
    results, _ = study
    train = [step.digest for step in results.lowered.plan.select(kind="train")]
    noted = {
        digest: dataclasses.replace(results.records[digest], provenance={"peak_memory": {"host": size}})
        for digest, size in zip(train, (10, 30, 20), strict=False)
    }
    records = {**results.records, **noted}
    cost = {line.kind: line for line in kind_costs(results.lowered, records)}["train"]
    assert (cost.total, cost.done, cost.seconds) == (len(train), len(train), pytest.approx(41.0 * len(train)))
    assert (cost.host, cost.gpu) == (30, None)
    sizes = [entry.size for digest in train for entry in records[digest].files.values()]
    assert cost.stored == sum(sizes) > 0


def test_training_time_is_told_by_task_and_zero_shot_has_none(study: tuple[StudyResults, Store]) -> None:
    results, _ = study
    costs = row_costs(table(results.trials), results.records)
    assert [line.name for line in costs] == ["seqlora", "lilora"]
    for line in costs:
        assert {task: stat and stat.mean for task, stat in line.training.items()} == dict.fromkeys(TASKS, 41.0)
        assert line.total is not None and line.total.mean == pytest.approx(123.0)
        assert line.answering is not None and line.answering.mean == pytest.approx(1.5 * 6)


def test_a_mark_stands_at_what_is_stored_and_at_ap(study: tuple[StudyResults, Store]) -> None:
    rows = table(study[0].trials)
    found = {dot.name: dot for dot in dots(rows, styles(rows))}
    for row in rows:
        ap = row.metric("AP")
        assert ap is not None
        assert (found[row.name].cost, found[row.name].score) == (row.stored, ap)


def test_the_digests_of_a_number_are_those_of_its_scores(study: tuple[StudyResults, Store]) -> None:
    row = table(study[0].trials)[1]
    plans = [result.plan for result in row.results]
    digests = [plan.cells[2, 0][1].digest[:SHORT] for plan in plans]
    assert of_cell(row.results, 2, 0) == f"scores {', '.join(digests)}"
    last = [plan.cells[2, column][1].digest[:SHORT] for plan in plans for column in range(3)]
    assert of_metric(row, "AP") == f"scores {', '.join(last)}"
    assert of_metric(row, "BWT").endswith(f"and {12 - MOST} more, under What was run")
    assert made_by("scores", []) == ""


def test_routers_and_weights_are_shown_as_the_stages_noted_them(study: tuple[StudyResults, Store]) -> None:
    results, _ = study
    noted = {"mechanisms": {"routers": {"gate": {"share": 0.7, "usual": [0, 0, 2, 0]}}, "weights": {"ScienceQA": 0.25}}}
    trial = results.trials[2]
    stages = tuple(
        None if stage is None else dataclasses.replace(stage, summary={**stage.summary, **noted})
        for stage in trial.stages
    )
    changed = tuple(dataclasses.replace(each, stages=stages) if each is trial else each for each in results.trials)
    router, weights = allocation_blocks(table(changed))
    assert (router["what"], router["columns"]) == ("router 'gate'", ["expert 1", "expert 3"])
    assert [[cell and cell["text"] for cell in cells] for _, cells in router["lines"]] == [["75", "25"]] * 3
    assert [[cell and cell["text"] for cell in cells] for _, cells in weights["lines"]] == [["25"]] * 3


def forgetful(plan: TrialPlan, row: int, column: int, item: int) -> str:
    """SeqLoRA forgets the first item of each task, and gains the second."""
    wrong = isinstance(plan.trial.method, SeqLoRA) and item == (0 if row > column else 1)
    return "none of these" if wrong else right(plan, row, column, item)


def test_a_case_has_each_rows_answers_after_its_stages_and_what_became_of_it(tmp_path: Path) -> None:
    lowered = lower(fake_study((SeqLoRA(), LiLoRA()), seeds=(0, 1), tasks=ANSWERED))
    store = answer_store(tmp_path, lowered, forgetful)
    found = read_evidence(read_results(lowered, store), store)
    assert found.num_items == len(found.cases) == NUM_ITEMS
    case = next(each for each in found.cases if each.id == "ScienceQA-0")
    assert case.references == ("A",)
    assert case.question.startswith("What is number 0?")
    seqlora, lilora = case.rows
    assert (seqlora.label, lilora.label) == ("forgotten", "kept")
    assert [right for _, _, right, _ in seqlora.answers] == [True, False, False]
    assert [answer for _, answer, _, _ in seqlora.answers] == ["A", "none of these", "none of these"]
    assert next(each for each in found.cases if each.id == "ScienceQA-1").rows[0].label == "gained"


def test_the_choice_takes_each_outcome_in_turns_and_no_more_than_a_page_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lowered = lower(fake_study((SeqLoRA(), LiLoRA()), tasks=ANSWERED))
    store = answer_store(tmp_path, lowered, forgetful)
    monkeypatch.setattr("orchestrator.report.evidence.cases.MOST_CASES", 6)
    found = read_evidence(read_results(lowered, store), store)
    assert (len(found.cases), found.num_items) == (6, NUM_ITEMS)
    chosen = {(case.task, case.id) for case in found.cases}
    assert chosen >= {("ScienceQA", "ScienceQA-0"), ("ScienceQA", "ScienceQA-1")}
    assert MOST_CASES <= 48


def test_a_picture_of_a_page_is_small_and_keeps_its_shape() -> None:
    file = io.BytesIO()
    Image.new("RGBA", (640, 320), (0, 0, 0, 0)).save(file, "PNG")
    uri = small_picture(file.getvalue())
    content = base64.b64decode(uri.removeprefix("data:image/webp;base64,"))
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.size == (SIDE, SIDE // 2)
        # What is transparent is white paper.
        assert min(picture.convert("RGB").getpixel((3, 3))) > 250  # type: ignore[arg-type]
    assert small_picture(b"no picture") == ""


def test_differences_have_noise_of_seeds_and_items_and_each_pair_stands_once(tmp_path: Path) -> None:
    lowered = lower(fake_study((ZeroShot(), SeqLoRA(), LiLoRA()), seeds=(0, 1), tasks=ANSWERED))
    store = answer_store(tmp_path, lowered, forgetful)
    results = read_results(lowered, store)
    rows = table(results.trials)
    block = difference_block(rows, read_evidence(results, store))
    assert block is not None
    assert [metric for metric, _ in block["groups"]] == list(METRICS)
    names = [(first.name, second.name) for first, second, _ in block["groups"][0][1]]
    assert names == [("zeroshot", "seqlora"), ("zeroshot", "lilora"), ("seqlora", "lilora")]
    # Zero-shot has no BWT: it is not asked for, and no gap to be waited for.
    transfers = dict(block["groups"])["BWT"]
    assert [(first.name, second.name) for first, second, _ in transfers] == [("seqlora", "lilora")]
    found = block["groups"][0][1][2][2]
    ap = {row.name: row.metrics["AP"] for row in rows}
    assert found.points == pytest.approx(ap["seqlora"].mean - ap["lilora"].mean)  # type: ignore[union-attr]
    assert (found.seeds, found.num_items) == ((2, 2), NUM_ITEMS)
    assert found.items is not None and found.items.low <= found.points <= found.items.high


def test_pairs_of_a_long_table_hang_on_its_form_alone(tmp_path: Path) -> None:
    methods = (ZeroShot(), *(LiLoRA(lam=float(place)) for place in range(ALL_PAIRS)))
    rows = table(read_results(lower(fake_study(methods, tasks=TASKS)), Store(tmp_path)).trials)
    assert [second.name for _, second in row_pairs(rows)] == [rows[1].name] * ALL_PAIRS


def test_peak_memory_is_of_what_ran_inside_alone() -> None:
    with PeakMemory("cpu") as large:
        held = bytearray(300 * 2**20)
        del held
    with PeakMemory("cpu") as small:
        pass
    if not large.bytes:
        pytest.skip("this system does not let a process set its greatest size back")
    assert large.bytes["host"] - small.bytes["host"] > 200 * 2**20
