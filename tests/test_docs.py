"""The documentation: its paths and names exist in the code, its links lead somewhere, its commands are ones."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from orchestrator.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PATH = re.compile(r"`((?:lilora|orchestrator|experiments|tests|benchmarks)/[\w./]*)`")
NAMED = re.compile(r"`([\w/]+\.py)`:?\s+((?:`\w+`(?:, )?)+)")


def defined(path: Path) -> set[str]:
    """Names of the functions and classes of a file."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    return {node.name for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, kinds)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_names_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    missing = [name for name in PATH.findall(text) if "NAME" not in name and not (ROOT / name).exists()]
    assert not missing
    for name, functions in NAMED.findall(text):
        wanted = set(re.findall(r"\w+", functions))
        assert wanted <= defined(ROOT / name), f"{page.name}: {name} has no {wanted - defined(ROOT / name)}"


def test_the_page_for_contributors_leads_through_functions_by_name() -> None:
    assert len(NAMED.findall((ROOT / "docs" / "contributing.md").read_text(encoding="utf-8"))) > 20


LINK = re.compile(r"\]\((?!https?:)([^)#]+)")
COMMANDS = {
    line.removeprefix("$ ").partition("  #")[0].strip()
    for page in PAGES
    for block in re.findall(r"```console\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    for line in block.splitlines()
    if line.startswith("$ ")
}
#: What is run here too, since it takes seconds, trains nothing and opens no port.
QUICK = {"plan", "costs", "params", "sites", "status", "doctor", "gc", "store ls", "store verify"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    assert not [link for link in LINK.findall(page.read_text(encoding="utf-8")) if not (page.parent / link).exists()]


def found(words: list[str]) -> tuple[str, Any, list[str]]:
    """The command's name, the command, and its arguments."""
    command: Any = typer.main.get_command(app)
    name = []
    while hasattr(command, "commands"):
        assert words[0] in command.commands, f"no command {words[0]}"
        name.append(words[0])
        command, words = command.commands[words[0]], words[1:]
    return " ".join(name), command, words


@pytest.mark.parametrize("text", sorted(COMMANDS))
def test_each_command_is_one_that_there_is(text: str) -> None:
    tool, *words = shlex.split(text)
    if tool == "make":
        assert all(re.search(rf"^{word}:", (ROOT / "Makefile").read_text(), re.MULTILINE) for word in words)
        return
    assert tool == "lilora", text
    name, command, arguments = found(words)
    if "--help" not in arguments:
        command.make_context(name, arguments)


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    sorted(text for text in COMMANDS if text.startswith("lilora") and found(shlex.split(text)[1:])[0] in QUICK),
)
def test_the_quick_ones_run(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LILORA_STORE", str(tmp_path / "store"))
    result = CliRunner().invoke(app, shlex.split(text)[1:])
    # Exit code 2 where a paper's setting does not fit the GPU, 1 where the doctor finds something: both are answers.
    assert result.exit_code in (0, 1, 2) and not isinstance(result.exception, Exception), result.output
    assert "Traceback" not in result.output and "No such option" not in result.output


def test_the_python_of_a_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    [block] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "compare.md").read_text(), re.DOTALL)
    exec(block.replace('".lilora"', repr(str(tmp_path))), {})  # noqa: S102
    assert "'lilora': None" in capsys.readouterr().out
