"""The page on paper: printed to a PDF by a browser of this machine, without a window."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from orchestrator.errors import UserError

#: Programs that print a page; the first that is there does.
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
#: The environment's word for another one.
VARIABLE = "LILORA_CHROMIUM"
SECONDS = 300
REMEDY = (
    f"install Chromium or Chrome, name one in {VARIABLE}, open the page of --format html and print it there, or take "
    "--format latex"
)


def print_page(page: Path, target: Path) -> Path:
    """Print an HTML file to `target`; its path.

    Raises:
        UserError: there is no browser, or it prints nothing.
    """
    browser = find_browser()
    # Chromium refuses its sandbox to root, and the page is our own and loads nothing.
    alone = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as profile:
        command = [
            browser, "--headless", "--disable-gpu", *alone, f"--user-data-dir={profile}", "--no-pdf-header-footer",
            f"--print-to-pdf={target.resolve()}", page.resolve().as_uri(),
        ]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UserError(f"{browser} did not print {page}: {error}; {REMEDY}") from error
    if not target.is_file():
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise UserError(f"{browser} did not print {page}: {said}; {REMEDY}")
    return target


def find_browser() -> str:
    """The program that prints.

    Raises:
        UserError: there is none.
    """
    named = os.environ.get(VARIABLE)
    if found := next(filter(None, map(shutil.which, [named] if named else BROWSERS)), None):
        return found
    raise UserError(f"no browser prints a PDF here ({named or ', '.join(BROWSERS)} not found): {REMEDY}")
