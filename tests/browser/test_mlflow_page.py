"""The pages that `lilora ui` prints, in a fresh browser: the table by AP, the charts, a trial's and an adapter's."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lilora.methods.lilora import LiLoRA
from lilora.methods.seqlora import SeqLoRA
from orchestrator.planning.lowering import lower
from orchestrator.results.reading import ResultReader
from orchestrator.tracking.listener import track
from orchestrator.tracking.pages.origin import Origin
from orchestrator.tracking.pages.pictures import WIDTH
from tests.orchestrator.fake_results import fake_store, fake_study

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]
TASKS = ("ScienceQA", "TextVQA", "GQA")
# Far above what is needed: a machine that is busy with other tests starts a server and draws pages slowly.
WAIT_MS = 240_000
METHODS = (SeqLoRA(), LiLoRA())
#: Names of columns in the order of the screen, which is not that of the document.
COLUMNS = """() => {
    const cells = [...document.querySelectorAll('[role=columnheader]')];
    cells.sort((a, b) => a.getBoundingClientRect().x - b.getBoundingClientRect().x);
    return [...new Set(cells.map(cell => cell.innerText.trim()))];
}"""


@dataclass(frozen=True)
class Served:
    """A store whose MLflow pages are served, and what `lilora ui` printed."""

    store: Path
    said: str

    @property
    def address(self) -> str:
        """The first page of the only study."""
        return re.search(r"http://\S+viewStateShareKey=\S+", self.said).group()


@pytest.fixture(scope="module")
def served(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """`lilora ui` on a small study; asked for after the browser, so that nothing is served where there is none."""
    folder = tmp_path_factory.mktemp("store")
    lowered = lower(fake_study(METHODS, tasks=TASKS))
    track(lowered, ResultReader(fake_store(folder, lowered)), None, Origin("fake", "experiments/fake.py", "fake"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "orchestrator.cli", "ui", "--store", str(folder), "--port", str(port)]
    process = subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ
    )
    said: list[str] = []
    assert process.stdout is not None
    reader = threading.Thread(target=lambda: said.extend(process.stdout), daemon=True)
    reader.start()
    try:
        _wait_for(port, process)
        yield Served(folder, "".join(said))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _wait_for(port: int, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + WAIT_MS / 1000
    while time.monotonic() < end and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.5)
    raise AssertionError(f"`lilora ui` serves nothing (exit code {process.poll()})")


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of a fresh browser."""
    with browser.new_context(viewport={"width": 1300, "height": 1600}) as context:
        context.set_default_timeout(WAIT_MS)
        yield context.new_page()


def test_the_first_page_is_the_table_by_ap_without_a_click(served: Served, page: Page) -> None:
    page.goto(served.address)
    page.locator("[role=columnheader]", has_text=re.compile(r"^AP$")).wait_for()
    for name in ("MAP", "BWT", "MIF"):
        assert page.locator("[role=columnheader]", has_text=re.compile(f"^{name}$")).count()
    # LiLoRA forgets less than SeqLoRA in the made-up results, and stands above it.
    rows = page.locator("[role=row]", has_text=re.compile("^(lilora|seqlora)|.*ago"))
    rows.nth(1).wait_for()
    text = page.inner_text("body")
    assert text.index("\nlilora\n") < text.index("\nseqlora\n")
    assert "table and figures" not in text, "the run that holds the study's table is no trial"
    assert "Agent versions" not in text and "Models" in text


def test_the_columns_are_what_a_trial_is_and_what_it_stores(served: Served, browser: Browser) -> None:
    # The interface draws the columns that are in sight; here all are.
    with browser.new_context(viewport={"width": 2400, "height": 900}) as context:
        context.set_default_timeout(WAIT_MS)
        page = context.new_page()
        page.goto(served.address)
        metrics, parameters = ["AP", "MAP", "BWT", "MIF"], ["method", "backbone", "order", "seed"]
        wanted = [*metrics, *parameters, "trained_parameters", "stored_parameters"]
        # The interface moves them once they are there, so for a while they are read again.
        end = time.monotonic() + WAIT_MS / 1000
        while (found := [name for name in page.evaluate(COLUMNS) if name in wanted]) != wanted:
            if time.monotonic() > end:
                break
            page.wait_for_timeout(500)
        assert found == wanted


def test_the_charts_draw_a_line_and_a_bar_for_each_trial(served: Served, page: Page) -> None:
    page.goto(served.address + "&compareRunsMode=CHART")
    page.get_by_text("AP and BWT over").first.wait_for()
    page.locator(".scatterlayer .trace path.js-line").nth(2 * len(METHODS) - 1).wait_for(state="attached")
    page.locator(".barlayer .point").nth(len(TASKS) * len(METHODS) - 1).wait_for(state="attached")
    assert page.get_by_text("AP against stored").count()
    assert "lilora (AP)" in page.inner_text("body") and "seqlora (BWT)" in page.inner_text("body")


def test_a_trials_page_shows_what_it_is_and_its_pictures(served: Served, page: Page) -> None:
    page.goto(served.address)
    page.get_by_role("link", name="lilora", exact=True).first.click()
    page.get_by_text("one after another").wait_for()
    for file in ("matrix.png", "curves.png"):
        picture = page.locator(f"img[src*='{file}']")
        picture.wait_for(state="attached")
        drawn = "picture => picture.decode().then(() => [picture.naturalWidth, picture.scrollWidth])"
        assert 100 < max(picture.evaluate(drawn)) <= WIDTH
    page.get_by_text("fake.py").first.wait_for()
    page.get_by_text(re.compile("mini ScienceQA test")).first.wait_for()


def test_an_adapters_page_says_how_stock_peft_loads_it(served: Served, page: Page) -> None:
    from mlflow import MlflowClient

    from orchestrator.storage.store import Store
    from orchestrator.tracking.place import default_uri, pages_in

    store = Store(served.store)
    [study] = pages_in(store)
    models = MlflowClient(default_uri(store)).search_logged_models([study.experiment], "tags.method = 'lilora'")
    server = served.address.partition("#")[0]
    last = next(model for model in models if model.tags["stage"] == str(len(TASKS)))
    page.goto(f"{server}#/experiments/{study.experiment}/models/{last.model_id}")
    page.get_by_text("lilora export fake --method lilora").wait_for()
    assert "PeftModel.from_pretrained" in page.inner_text("body")
    for task in TASKS:
        page.get_by_text(f"accuracy.{task}", exact=True).first.wait_for()
