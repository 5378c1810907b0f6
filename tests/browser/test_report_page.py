"""The report as a browser shows it: wide and narrow, light, dark and on paper."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lilora.methods.lilora import LiLoRA
from lilora.methods.seqlora import SeqLoRA
from lilora.methods.zeroshot import ZeroShot
from orchestrator.planning.lowering import TrialPlan, lower
from orchestrator.report import write_report
from orchestrator.report.evidence import read_evidence
from orchestrator.report.formats.pdf import print_page
from orchestrator.results.reading import read_results
from orchestrator.study import Paper
from orchestrator.study.paper import PaperRow
from tests.orchestrator.fake_answers import RIGHT, answer_store
from tests.orchestrator.fake_results import fake_study

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

TASKS = ("ScienceQA", "GQA", "VQAv2")
#: Milliseconds; a machine may have much else to do.
PATIENCE = 240_000

pytestmark = pytest.mark.slow


def answer(plan: TrialPlan, row: int, column: int, item: int) -> str:
    """SeqLoRA forgets the first item of each task; the others of the answers are right."""
    forgets = isinstance(plan.trial.method, SeqLoRA) and row > column and item == 0
    return "a very-long-wrong-answer-" * 6 if forgets else RIGHT[plan.tasks[column]][item]


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    study = fake_study((ZeroShot(), SeqLoRA(), LiLoRA()), seeds=(0, 1), tasks=TASKS)
    rows = tuple(PaperRow(label, (("AP", 46.21), ("BWT", -3.0))) for label in ("Zero-shot", "SeqLoRA", "LiLoRA"))
    title = "A title that is long enough to be broken into several lines"
    lowered = lower(dataclasses.replace(study, title=title, paper=Paper("a table", rows, "LiLoRA")))
    store = answer_store(folder / "store", lowered, answer)
    results = read_results(lowered, store)
    return write_report(results, folder / "report", evidence=read_evidence(results, store))


@contextmanager
def opened(
    browser: Browser, path: Path, width: int, scheme: str, media: str = "screen"
) -> Iterator[tuple[Page, list[str]]]:
    """The page in a window, and what the browser says of it."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    page.set_default_timeout(PATIENCE)
    page.emulate_media(media=media, color_scheme=scheme)  # type: ignore[arg-type]
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("requestfailed", lambda request: said.append(f"not loaded: {request.url}"))
    page.goto(path.as_uri())
    try:
        yield page, said
    finally:
        page.close()


#: What is wider than the page though nothing lets it scroll there: (element, its right end).
OUTSIDE = """() => [...document.querySelectorAll('main *')]
  .filter(each => !each.closest('.scroll, svg') && each.getBoundingClientRect().right > innerWidth + 1)
  .map(each => `${each.tagName}.${each.className} ends at ${each.getBoundingClientRect().right}`)"""
#: Figures in which nothing is drawn, or that have no size; in what is folded none has one.
UNDRAWN = """() => [...document.querySelectorAll('figure > svg')].filter(each => {
    const box = each.getBoundingClientRect();
    return !each.querySelector('path') || !each.checkVisibility() || box.width < 150 || box.height < 40;
  }).map(each => each.closest('figure').textContent.trim().slice(0, 60))"""
LUMINANCE = (
    "() => getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number).reduce((a, b) => a + b) / 765"
)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("media", ["screen", "print"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1300, 390])
def test_the_page_fits_its_window_says_no_error_and_draws_every_figure(
    browser: Browser, page_file: Path, width: int, scheme: str, media: str
) -> None:
    with opened(browser, page_file, width, scheme, media) as (page, said):
        if media == "screen":
            assert page.evaluate(OUTSIDE) == []
        assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
        assert page.locator("figure > svg").count() >= 10
        assert page.evaluate(UNDRAWN) == []
        # On paper the page is light, whatever the screen is.
        assert (page.evaluate(LUMINANCE) < 0.5) == (scheme == "dark" and media == "screen")
        assert said == []


@pytest.mark.timeout(900)
def test_cases_are_filtered_by_outcome_task_and_method(browser: Browser, page_file: Path) -> None:
    with opened(browser, page_file, 1300, "light") as (page, said):
        shown = page.locator(".case:visible")
        assert shown.count() == sum(len(RIGHT[task]) for task in TASKS)
        page.select_option("select[name=label]", "forgotten")
        # The first item of each task but the last, which no later stage could make forgotten.
        assert shown.count() == len(TASKS) - 1
        assert page.locator("#case-count").inner_text() == f"{len(TASKS) - 1} shown"
        rows = page.locator(".case tr:visible th").all_inner_texts()
        assert len(rows) >= len(TASKS) - 1 and all("seqlora" in text for text in rows)
        page.select_option("select[name=task]", TASKS[0])
        assert shown.count() == 1
        page.select_option("select[name=method]", "lilora")
        assert shown.count() == 0
        page.select_option("select[name=label]", "kept")
        assert shown.count() == len(RIGHT[TASKS[0]])
        assert said == []


@pytest.mark.timeout(900)
def test_numbers_and_marks_say_which_digests_made_them(browser: Browser, page_file: Path) -> None:
    with opened(browser, page_file, 1300, "light") as (page, _):
        result = page.locator("h2:text-is('Result') ~ .scroll table").first
        cells = result.locator("tbody td").evaluate_all("all => all.map(each => [each.textContent.trim(), each.title])")
        numbers = [title for text, title in cells if "." in text]
        # Of three rows each task's score, and three of their figures at least.
        assert len(numbers) >= 3 * len(TASKS) + 3
        assert all("scores " in title or "stages " in title for title in numbers)
        marks = page.locator("figure.single svg g > title").all_text_contents()
        assert len(marks) == 3
        assert all("scores " in mark and "stored" in mark for mark in marks)


@pytest.mark.timeout(900)
def test_the_page_is_printed_to_a_pdf(browser: Browser, page_file: Path, tmp_path: Path) -> None:
    assert browser.is_connected()
    assert print_page(page_file, tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
