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

from docs import make_pictures
from orchestrator.cli import app
from orchestrator.planning.lowering import lower
from orchestrator.resolving.catalogue import Target, studies
from orchestrator.storage.store import Store
from tests.orchestrator.fake_results import fake_store, fake_study

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
#: Commands within sentences, whole ones: what is abbreviated there, or has a place to fill in, is not parsed.
INLINE = {
    " ".join(text.split())
    for page in PAGES
    for text in re.findall(r"`(lilora [a-z][^`]*)`", page.read_text(encoding="utf-8"))
    if not re.search(r"[A-Z\[]{2}|\.\.\.", text)
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
    if "--help" in arguments:
        return
    values = command.make_context(name, arguments).params
    for study in (values.get("study"), *(values.get("studies") or ())):
        assert study is None or study in studies(), f"{text}: no study {study}"


@pytest.mark.parametrize("text", sorted(INLINE))
def test_each_command_in_a_sentence_names_a_command_and_a_study(text: str) -> None:
    _, *words = shlex.split(text)
    name, command, arguments = found(words)
    named = [word for word in arguments if word.isidentifier()]
    if named and any(parameter.name == "study" for parameter in command.params) and name not in ("why", "attach"):
        assert named[0] in studies(), f"{text}: no study {named[0]}"


#: Exit codes that are answers: 2 where a paper's setting does not fit the GPU, 1 where the doctor finds something.
ANSWERS = {"costs": (0, 2), "doctor": (0, 1)}


@pytest.mark.slow
@pytest.mark.parametrize(
    "text", sorted(text for text in COMMANDS if any(text.startswith(f"lilora {name}") for name in QUICK))
)
def test_the_quick_ones_run(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LILORA_STORE", str(tmp_path / "store"))
    words = shlex.split(text)[1:]
    result = CliRunner().invoke(app, words)
    assert result.exit_code in ANSWERS.get(found(words)[0], (0,)), result.output
    assert not isinstance(result.exception, Exception)


def test_a_picture_is_drawn_from_a_store_that_has_its_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lowered = lower(fake_study())
    monkeypatch.setattr(make_pictures, "IMAGES", tmp_path)
    monkeypatch.setattr(make_pictures, "find_target", lambda name: Target(name, lowered.study))
    path = make_pictures.draw_curves("quickstart", fake_store(tmp_path / "store", lowered))
    assert path.parent == tmp_path and path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit, match="cells of quickstart are not in .*: lilora run quickstart"):
        make_pictures.draw_curves("quickstart", Store(tmp_path / "empty"))


def test_the_python_of_a_page_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # The second needs runs in MLflow: tests/orchestrator/tracking/test_pages.py runs it.
    [block, _] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "compare.md").read_text(), re.DOTALL)
    exec(block.replace('".lilora"', repr(str(tmp_path))), {})  # noqa: S102
    assert "'lilora': None" in capsys.readouterr().out
