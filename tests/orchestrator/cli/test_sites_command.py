"""`lilora sites`: patterns that a backbone takes, for a known backbone and for a folder with a configuration alone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from transformers import Idefics3Config
from typer.testing import CliRunner

from lilora.core import registry
from orchestrator.cli import app


def run(*arguments: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, ["sites", *arguments])
    assert result.exit_code == code, result.output
    return result


def test_a_known_backbones_sites_are_those_that_it_has() -> None:
    found = json.loads(run("llava-1.5-7b", "--json").stdout.splitlines()[-1])
    backbone = registry.load("backbones", "llava-1.5-7b")
    assert sum(found["feed_forward"].values()) + sum(found["projector"].values()) == 98
    for name in ("model.multi_modal_projector.linear_1", "model.language_model.layers.7.mlp.up_proj"):
        for patterns in (found["sites"], backbone.sites):
            assert sum(bool(re.fullmatch(pattern, name)) for pattern in patterns) == 1
    assert not any(re.fullmatch(pattern, "lm_head") for kind in ("feed_forward", "other") for pattern in found[kind])


def test_a_folder_with_a_configuration_will_do(tmp_path: Path) -> None:
    text = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 3, "intermediate_size": 96, "vocab_size": 99}
    Idefics3Config(text_config={**text, "num_attention_heads": 2}).save_pretrained(tmp_path)
    found = json.loads(run(str(tmp_path), "--json").stdout.splitlines()[-1])
    assert found["projector"] == {r"model\.connector\.modality_projection\.proj": 1}
    assert found["feed_forward"][r"model\.text_model\.layers\.\d+\.mlp\.gate_proj"] == 3
    shown = run(str(tmp_path)).stdout
    assert "they stay frozen" in shown and "sites=(" in shown


def test_a_folder_without_a_model_says_what_to_name(tmp_path: Path) -> None:
    said = run(str(tmp_path), code=2).stderr.replace("│", " ")
    assert "has no config.json" in " ".join(said.split())
