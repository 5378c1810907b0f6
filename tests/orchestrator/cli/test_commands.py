"""Every command of the command line alike: its help, its example, its refusals, its JSON."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from lilora.core import registry
from orchestrator.cli import app
from orchestrator.resolving.catalogue import find_target, studies
from tests.orchestrator.cli.test_cli import ROOT, complaint, folder, lilora_, quick  # noqa: F401


def _walk(group: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _walk(command, *path, name)
        else:
            yield (*path, name), command


COMMANDS = dict(_walk(typer.main.get_command(app)))
each_command = pytest.mark.parametrize("path", COMMANDS, ids=" ".join)


def example(path: tuple[str, ...]) -> tuple[list[str], dict[str, Any]]:
    """The words of a command's example, and what its own signature makes of them; wrong usage is raised."""
    line = COMMANDS[path].epilog.removeprefix("Example: ")
    program, *words = shlex.split(line)
    assert program == "lilora" and tuple(words[: len(path)]) == path, line
    context = COMMANDS[path].make_context(" ".join(path), words[len(path) :], resilient_parsing=False)
    return words, context.params


def test_the_module_is_a_program_too_since_jobs_on_a_cluster_call_it_so() -> None:
    command = [sys.executable, "-m", "orchestrator.cli", "plan", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert "Usage: lilora plan" in done.stdout


@each_command
def test_the_help_says_what_a_command_does_and_ends_in_its_example(path: tuple[str, ...]) -> None:
    said = " ".join(lilora_(*path, "--help").stdout.split())
    assert " ".join(COMMANDS[path].help.split("\n\n")[0].split()) in said
    assert said.endswith("Example: " + " ".join(COMMANDS[path].epilog.split()[1:]))
    assert all(option.help for option in COMMANDS[path].params), "every option says what it is"


@each_command
def test_an_example_parses_and_names_what_there_is(path: tuple[str, ...]) -> None:
    _, values = example(path)
    if path[0] not in ("attach", "stop") and "study" in values:
        assert values["study"] is None or values["study"] in studies()
    for kind in ("method", "backbone"):
        if kind in values:
            registry.load(f"{kind}s", values[kind])
    if path == ("metrics",):
        assert (ROOT / values["matrix"]).is_file()
    if path == ("submit",):
        example_of_run = COMMANDS[("run",)].make_context("run", [values["study"], *values["options"]])
        assert example_of_run.params["slots"] == 8


def test_the_two_steps_of_the_example_of_why_are_steps_of_its_study() -> None:
    _, values = example(("why",))
    plan = find_target(values["study"]).plan
    (one,), (other,) = plan.find(values["step"]), plan.find(values["other"])
    assert one.digest != other.digest


#: For each command a mistake, and the part of the answer that helps.
MISTAKES = {
    "run litle": "Did you mean 'little'?",
    "run little --scale-to huge": "write MACHINESxCORES or MACHINESxCORES+GPUS",
    "plan litle": "Did you mean 'little'?",
    "status litle": "Did you mean 'little'?",
    "why x": "give a step's label, the first digits of its digest",
    "report litle": "Did you mean 'little'?",
    "explain litle lilora": "Did you mean 'little'?",
    "claims litle": "Did you mean 'little'?",
    "compare litle": "Did you mean 'little'?",
    "diff litle/seqlora little/lilora": "Did you mean 'little'?",
    "export little --method lilora --out there": "there are: 'zeroshot",
    "track little --tracking none": "drop it to write mlflow.db",
    "ui": "or `lilora track STUDY`, first",
    "submit little --store here": "give the full path of a folder that every machine mounts",
    "attach job --address nowhere": "give http://HEAD:8265",
    "stop job --address nowhere": "give http://HEAD:8265",
    "show maxi": "lilora/benchmarks has: coin",
    "check-data maxi": "lilora/benchmarks has: coin",
    "check-data cvit --out none/wrong.json": "make it, or name another --out FILE",
    "sites maxi": "lilora/backbones has: llava_1_5_13b",
    "compose-llava --llm a --vision b --projector c": "Missing option '--out'",
    "metrics none.csv": "none.csv: No such file",
    "params --backbone tiny_llava --method lilra": "lilora/methods has: clora",
    "costs little --gpu abacus": "there are: b200, h200",
    "doctor --stoer x": "Possible options: --json, --store",
    "gc --min-age soon": "write 30m, 12h or 1d",
    "gc --keep litle": "Did you mean 'little'?",
    "store verify litle": "Did you mean 'little'?",
    "store copy little there": "run it first, or name its --store",
    "store ls --store experiments/little.py": "name a folder that you can write to with --store DIR",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_exit_code_2_and_says_how_to_mend_it(folder: Path, line: str) -> None:  # noqa: F811
    assert MISTAKES[line] in complaint(*shlex.split(line))
    assert not (folder / "store").exists(), "and nothing was touched"


def test_the_mistakes_above_are_of_every_command() -> None:
    tried = {path for path in COMMANDS for line in MISTAKES if tuple(line.split()[: len(path)]) == path}
    assert tried == set(COMMANDS)


JSON_OF = {
    "plan little": {"requested", "distinct", "done", "to_run", "by_kind", "data_notes"},
    "status little": {"study", "done", "running", "failed", "stopped", "waiting", "choices", "trials"},
    "why LABEL --study little": {"digest", "label", "identity", "in_store"},
    "report little": {"study", "report"},
    "gc --min-age 0m --keep little": {"removed", "entries", "bytes", "kept_studies", "by_folder", "artifacts"},
    "store verify little": {"checked", "damaged", "set_aside"},
    "store copy little there": {"copied", "there", "bytes", "damaged", "missing", "destination"},
    "store ls": {"store", "kinds"},
    "doctor": {"errors", "warnings", "findings"},
    "sites tiny_llava": {"backbone", "feed_forward", "attention", "projector", "other", "sites"},
}


def test_with_json_one_object_stands_alone_on_standard_output(quick: Path) -> None:  # noqa: F811
    lilora_("run", "little", "--tracking", "none")
    for line, keys in JSON_OF.items():
        words = shlex.split(line)
        if words[0] == "why":
            words[1] = find_target("little").plan.select("score")[0].label
        said = lilora_(*words, "--json").stdout
        assert keys <= json.loads(said).keys(), line
        assert said.endswith("}\n") and said.count("\n") == 1, line
