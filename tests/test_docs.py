"""The documentation's paths and names exist in the code."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
PATH = re.compile(r"`((?:lilora|orchestrator|experiments|tests|benchmarks)/[\w./]*)`")
NAMED = re.compile(r"`([\w/]+\.py)`:?\s+((?:`\w+`(?:, )?)+)")


def defined(path: Path) -> set[str]:
    """Names of the functions and classes of a file."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    return {node.name for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, kinds)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_names_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    missing = [name for name in PATH.findall(text) if not (ROOT / name).exists()]
    assert not missing
    for name, functions in NAMED.findall(text):
        wanted = set(re.findall(r"\w+", functions))
        assert wanted <= defined(ROOT / name), f"{page.name}: {name} has no {wanted - defined(ROOT / name)}"


def test_the_page_for_contributors_leads_through_functions_by_name() -> None:
    assert len(NAMED.findall((ROOT / "docs" / "contributing.md").read_text(encoding="utf-8"))) > 20
