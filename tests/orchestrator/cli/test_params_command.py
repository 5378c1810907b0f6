"""`lilora params`: the numbers of the issue, the paper's beside them, and messages that name the choices."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.cli.commands.params import make_method

LLAVA = ("--backbone", "llava-1.5-7b", "--rank", "128", "--tasks", "6")


def run(*arguments: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, ["params", *arguments])
    assert result.exit_code == code, result.output
    return result


def answer(*arguments: str) -> dict[str, Any]:
    return json.loads(run(*arguments, "--json").stdout.splitlines()[-1])


def complaint(*arguments: str) -> str:
    return " ".join(run(*arguments, code=2).stderr.replace("│", " ").split())


def test_lilora_on_llava_7b_in_the_papers_setting() -> None:
    found = answer(*LLAVA, "--method", "lilora", "--task-rank", "64")
    assert found["modules"] == 98
    assert found["trainable"] == found["trainable_later"] == found["shared"] + found["per_task"]
    assert round(found["per_task_mib"], 2) == 104.53
    assert round(found["total_mib"], 1) == 984.4
    assert found["shared_mib"] == 357.25
    assert found["paper"] == {
        "source": "LiLoRA, Table 2",
        "per_task_mb": 104.6,
        "total_mb": 985.1,
        "trainable_millions": None,
    }
    assert found["full"] == 0


def test_dirlora_on_llava_7b_says_that_a_task_rank_changes_nothing() -> None:
    found = answer(*LLAVA, "--method", "dirlora", "--task-rank", "64")
    assert (found["trainable"], found["per_task"], found["per_task_mib"]) == (187_301_888, 187_301_888, 357.25)
    assert (found["paper"]["per_task_mb"], found["paper"]["total_mb"]) == (357.3, 2143.9)
    assert "dirlora has no task_rank, so --task-rank 64 changes nothing." in found["notes"]


def test_sharing_a_alone_shows_the_papers_figure_ours_and_why_they_differ() -> None:
    shown = run(*LLAVA, "--method", "lilora", "--set", "share_a=true", "--set", "decompose_b=false").stdout
    assert all(number in shown for number in ("206.00", "178.7", "1,387.25", "1,250.6"))
    assert "178.7 is half of DirLoRA's 357.3" in shown
    assert "A (r k) takes 151.25 MiB and B (r d) 206.00" in shown


def test_what_is_said_of_the_papers_figures_holds_for_our_count_and_its_table() -> None:
    found = answer(*LLAVA, "--method", "lilora", "--set", "share_a=true", "--set", "decompose_b=false")
    assert (found["modules"], found["shared_mib"], found["per_task_mib"]) == (98, 151.25, 206.0)
    reference = Path(__file__).parents[3] / "experiments" / "reference"
    with (reference / "lilora_table2_components.csv").open() as file:
        table = {(line["EP_MB"], line["TP_MB"]) for line in csv.DictReader(file)}
    with (reference / "parameters.csv").open() as file:
        lines = [line for line in csv.DictReader(file) if line["source"] == "LiLoRA, Table 2"]
        assert {(line["per_task_mb"], line["total_mb"]) for line in lines} == table


def test_the_papers_unregularised_row_and_dirlora_as_a_lilora_are_found_too() -> None:
    free = answer(*LLAVA, "--method", "lilora", "--set", "basis=free")
    assert free["paper"]["total_mb"] == 985.1
    nothing = answer(*LLAVA, "--method", "lilora", "--set", "share_a=false", "--set", "decompose_b=false")
    assert (nothing["per_task"], nothing["paper"]["per_task_mb"]) == (187_301_888, 357.3)
    own_a = answer(*LLAVA, "--method", "lilora", "--set", "share_a=false")
    assert own_a["paper"] is None


@pytest.mark.parametrize("change", [("--rank", "64"), ("--tasks", "5"), ("--backbone", "llava-1.5-13b")])
def test_the_paper_has_no_figure_for_another_setting(change: tuple[str, str]) -> None:
    options = dict(zip(LLAVA[::2], LLAVA[1::2], strict=True)) | dict([change])
    found = answer("--method", "dirlora", *(word for pair in options.items() for word in pair))
    assert found["paper"] is None


COIN = ("--backbone", "llava-1.5-7b", "--tasks", "8", "--sites", "all-linear", "--projector", "full")
PROJECTOR = 1024 * 4096 + 4096 + 4096 * 4096 + 4096


def test_proglora_in_its_papers_setting() -> None:
    dynamic = (*COIN, "--method", "proglora_dynamic", "--rank", "16", "--set", "width=256")
    found = answer(*dynamic)
    assert (found["modules"], found["trainable"], found["full"]) == (224, 39_976_960, PROJECTOR)
    assert found["trainable_later"] == 39_976_960 + 2 * 256 * 4096 + 256 + 3 * 4096 + 4096
    assert round(found["trainable_later"] / 1e6) == found["paper"]["trainable_millions"] == 42
    shown = run(*dynamic).stdout
    assert "42 million" in shown and f"{PROJECTOR:,}" in shown and "The paper's figure is of the pool" in shown


def test_moelora_in_proglora_papers_setting_has_its_routers_besides() -> None:
    found = answer(*COIN, "--method", "moelora", "--rank", "128")
    routers = 8 * 32 * (6 * 4096 + 11008)
    assert found["trainable"] - routers == 319_815_680
    assert found["paper"]["trainable_millions"] == 320 and f"{routers:,}" in found["notes"][-1]


def test_a_papers_figure_is_not_shown_beside_other_layers() -> None:
    assert answer(*LLAVA, "--method", "dirlora", "--sites", "ffn+projector")["paper"]["per_task_mb"] == 357.3
    assert answer(*LLAVA, "--method", "dirlora", "--sites", "ffn")["paper"] is None


def test_sites_that_are_not_there_list_the_choices() -> None:
    said = complaint(*LLAVA, "--method", "seqlora", "--sites", "linear")
    assert "there are: ffn+projector, all-linear, ffn, attention, gate+up" in said
    assert "needs --sites" in complaint(*LLAVA, "--method", "seqlora", "--projector", "full")
    said = complaint(*LLAVA, "--method", "seqlora", "--sites", "ffn+projector", "--projector", "full")
    assert "take --sites ffn" in said


def test_the_shipped_backbone_is_counted_with_the_methods_own_ranks() -> None:
    found = answer("--backbone", "tiny_llava", "--method", "seqlora")
    assert (found["modules"], found["fields"]["rank"], found["total"]) == (14, 16, 146_432)


def test_typos_list_the_choices() -> None:
    assert "lilora/methods has: clora, dirlora" in complaint(*LLAVA, "--method", "lilra")
    said = complaint("--backbone", "llava-1.5", "--method", "lilora")
    assert "lilora/backbones has: llava_1_5_13b, llava_1_5_7b, qwen2_5_vl_3b" in said
    said = complaint(*LLAVA, "--method", "seqlora", "--set", "share_a=true")
    assert "one of seqlora's fields: rank, lora_alpha, dropout, init_a" in said
    assert "give FIELD=VALUE" in complaint(*LLAVA, "--method", "lilora", "--set", "share_a")


def test_an_inner_rank_that_is_not_below_the_rank_is_refused() -> None:
    assert "r~ must be below r" in complaint(*LLAVA, "--method", "lilora", "--task-rank", "128")
    assert "r~ must be below r" in complaint("--backbone", "tiny_llava", "--method", "lilora", "--task-rank", "16")


@pytest.mark.parametrize("setting", ["share_a=yes", "share_a=1", "lora_alpha=true", "rank=2.5", "alpha=half"])
def test_a_value_of_the_wrong_type_is_refused(setting: str) -> None:
    with pytest.raises(ValueError, match=f"--set {setting}: the field is of type"):
        make_method("lilora", None, None, [setting])


def test_fields_are_set_as_json_or_bare_text() -> None:
    settings = ["share_a=false", "alpha=null", "lora_alpha=64", "basis=frozen", "shared_a=0.1"]
    method, notes = make_method("lilora", 8, 2, settings)
    assert (method.share_a, method.alpha, method.lora_alpha, method.basis, method.shared_a) == (
        False,
        None,
        64,
        "frozen",
        0.1,
    )
    assert (method.rank, method.task_rank, notes) == (8, 2, [])
    with pytest.raises(ValueError, match="given already"):
        make_method("lilora", 8, None, ["rank=16"])
    with pytest.raises(ValueError, match="no basis 'loose'; there are: regularised"):
        make_method("lilora", None, None, ["basis=loose"])


def test_importing_the_command_leaves_torch_alone() -> None:
    code = "import sys, orchestrator.cli.commands.params; print({'torch', 'transformers', 'ray'} & set(sys.modules))"
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
