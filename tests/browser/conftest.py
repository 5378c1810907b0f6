"""A headless Chromium for the tests that look at pages; where none is to be had they are skipped and say why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from orchestrator.errors import UserError
from orchestrator.report.formats.pdf import find_browser

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A Chromium of this machine (LILORA_CHROMIUM, or on PATH), or the one that `playwright install` fetched.

    It ends with its file: while it is open, Playwright's event loop runs in this thread, and a test of another file
    that calls `asyncio.run` would be refused.
    """
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        pytest.skip("no browser test: playwright is not installed (pip install 'lilora[dev]')")
    try:
        found = find_browser()
    except UserError:
        found = None
    with sync_playwright() as playwright:
        try:
            chromium = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        except Error as error:
            pytest.skip(f"no browser test: no Chromium starts here ({str(error).splitlines()[0]})")
        yield chromium
        chromium.close()
