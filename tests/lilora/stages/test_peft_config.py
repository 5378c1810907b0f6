"""Configurations of PEFT folders: names that reach the adapted layers and no other, in PEFT itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from peft.utils import ModulesToSaveWrapper
from torch import nn

from lilora.adapters.adapters import LoraPair
from lilora.backbones import SITE_SETS, Backbone
from lilora.stages.peft_config import base_model, check_saved, lora_config, not_served, target_modules, write_config
from tests.lilora.lab import Lab
from tests.lilora.model.tiny_others import make_idefics3, make_qwen2_5
from tests.lilora.tiny import QWEN


class Nested(nn.Module):
    """Two branches whose linears end in the same names."""

    def __init__(self) -> None:
        super().__init__()
        self.text = nn.ModuleDict({"up": nn.Linear(6, 8), "down": nn.Linear(8, 6)})
        self.tower = nn.ModuleDict({"text": nn.ModuleDict({"up": nn.Linear(6, 8), "down": nn.Linear(8, 6)})})


def pair(rank: int, lora_alpha: float = 8.0) -> LoraPair:
    return LoraPair(torch.zeros(rank, 6), torch.zeros(8, rank), lora_alpha)


def names_of(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_modules()]


def config_of(pairs: dict[str, LoraPair], full: Sequence[str] = (), made: type[nn.Module] = Nested) -> Any:
    return lora_config(pairs, Backbone("x", "1", location="org/x"), names_of(made()), full)


def test_peft_adapts_exactly_the_named_modules_and_no_other_with_the_same_ending() -> None:
    model = inject_adapter_in_model(config_of({"text.up": pair(2)}), Nested())
    assert [name for name, module in model.named_modules() if isinstance(module, LoraLayer)] == ["text.up"]


def test_peft_saves_exactly_the_layers_trained_in_full_and_no_other_with_the_same_ending() -> None:
    pairs, names = {"text.down": pair(2)}, [name for name, _ in Nested().named_modules()]
    check_saved(["tower.text.up"], names, pairs)
    config = config_of(pairs, ["tower.text.up"])
    model = inject_adapter_in_model(config, Nested())
    found = [name for name, module in model.named_modules() if isinstance(module, ModulesToSaveWrapper)]
    assert found == ["tower.text.up"]
    assert [name for name, module in model.named_modules() if isinstance(module, LoraLayer)] == ["text.down"]


def test_a_layer_whose_whole_name_ends_anothers_is_refused_since_peft_would_save_both() -> None:
    pairs, names = {"text.down": pair(2)}, [name for name, _ in Nested().named_modules()]
    config = config_of(pairs, ["text.up"])
    model = inject_adapter_in_model(config, Nested())
    found = [name for name, module in model.named_modules() if isinstance(module, ModulesToSaveWrapper)]
    assert found == ["text.up", "tower.text.up"]
    with pytest.raises(ValueError, match=r"PEFT would take tower\.text\.up for it.*write the merged model"):
        check_saved(["text.up"], names, pairs)


def test_a_layer_whose_name_as_a_pattern_keeps_lora_off_another_is_refused() -> None:
    class Alike(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.text = nn.ModuleDict({"up": nn.Linear(6, 8)})
            self.text_up, self.down = nn.Linear(6, 8), nn.Linear(6, 8)

    pairs = {"text_up": pair(2), "down": pair(2)}
    model = inject_adapter_in_model(config_of(pairs, ["text.up"], Alike), Alike())
    assert [name for name, module in model.named_modules() if isinstance(module, LoraLayer)] == ["down"]
    with pytest.raises(ValueError, match=r"PEFT would take text_up for it"):
        check_saved(["text.up"], [name for name, _ in Alike().named_modules()], pairs)


def test_ranks_and_scales_of_single_modules_reach_exactly_those_modules() -> None:
    pairs = {"text.down": pair(2), "text.up": pair(4, 6.0), "tower.text.up": pair(2), "tower.text.down": pair(3)}
    model = inject_adapter_in_model(config_of(pairs), Nested())
    for name, wanted in pairs.items():
        layer = model.get_submodule(name)
        assert layer.r["default"] == wanted.a.shape[0]
        assert layer.scaling["default"] == wanted.lora_alpha / wanted.a.shape[0]


def test_the_base_is_the_hubs_name_and_commit_or_the_registrys_name_for_a_folder(tmp_path: Path) -> None:
    assert base_model(Backbone("llava-1.5-7b", "4481d27", location="llava-hf/llava-1.5-7b-hf")) == (
        "llava-hf/llava-1.5-7b-hf",
        "4481d27",
    )
    assert base_model(Backbone("tiny", "1", location=str(tmp_path))) == ("tiny", None)


@pytest.fixture(scope="module", name="backbones")
def _backbones(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Backbone]:
    folder, makers = tmp_path_factory.mktemp("backbones"), {"qwen2_5_vl": make_qwen2_5, "idefics3": make_idefics3}
    made = {name: maker(folder / name) for name, maker in makers.items()}
    return {"llava": lab.backbone, "qwen2_vl": Lab(folder / "qwen", QWEN).backbone, **made}


NAMED = [(name, sites) for name in ("llava", "qwen2_vl", "qwen2_5_vl") for sites in (*SITE_SETS, "ffn+projector")]


@pytest.mark.parametrize(("family", "sites"), [*NAMED, ("idefics3", "")])
def test_a_list_of_names_reaches_exactly_the_sites_of_every_class(
    backbones: dict[str, Backbone], family: str, sites: str
) -> None:
    backbone = backbones[family].adapted(sites) if sites else backbones[family]
    model = backbone.meta_model()
    wanted = backbone.find_sites(model)
    pairs = {name: LoraPair(torch.zeros(2, k), torch.zeros(d, 2), 4) for name, (d, k) in wanted.items()}
    config = lora_config(pairs, backbone, names_of(model))
    assert isinstance(config.target_modules, set)
    with torch.device("meta"):
        adapted = inject_adapter_in_model(config, model)
    assert {name for name, module in adapted.named_modules() if isinstance(module, LoraLayer)} == set(wanted)


def test_layers_are_named_by_their_last_part_where_no_other_has_it_and_whole_where_one_has() -> None:
    modules = ["llm.0.q", "llm.0.up", "llm.1.q", "llm.1.up", "tower.0.q", "merger.mlp.0", "merger.mlp"]
    assert target_modules(["llm.0.up", "llm.1.up"], modules) == ["up"]
    assert target_modules(["llm.1.q", "llm.0.q", "llm.0.up"], modules) == ["llm.0.q", "llm.0.up", "llm.1.q"]
    assert target_modules(["llm.0.up", "llm.1.up", "merger.mlp.0"], [*modules, "tower.0"]) == ["merger.mlp.0", "up"]
    assert target_modules(["text.up"], ["text.up", "tower.text.up"]) == r"text\.up"


def test_a_configuration_is_written_in_order_and_read_by_peft(tmp_path: Path) -> None:
    names = [f"layer{number}" for number in range(40)]
    write_config(LoraConfig(r=2, target_modules=names, lora_alpha=4), tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"] == sorted(names)
    assert PeftConfig.from_pretrained(tmp_path).target_modules == set(names)


def whole() -> dict[str, LoraPair]:
    return {"text.down": pair(2), "tower.text.down": pair(2)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda pairs: config_of(pairs), None),
        (lambda pairs: config_of({"text.up": pair(2)}), "a pattern alone"),
        (lambda pairs: config_of(pairs, ["tower.text.up"]), "modules_to_save"),
        (lambda pairs: config_of({**pairs, "tower.text.up": pair(3)}), "differ from layer to layer"),
        (lambda pairs: config_of({**pairs, "tower.text.up": pair(2, 6.0)}), "differ from layer to layer"),
        (lambda pairs: config_of({name: dora(pair(2)) for name in pairs}), "DoRA"),
    ],
)
def test_what_servers_of_lora_folders_do_not_take_is_named(
    change: Callable[[dict[str, LoraPair]], Any], words: str | None
) -> None:
    config = change(whole())
    reasons = not_served(config, whole())
    assert reasons == () if words is None else len(reasons) == 1 and words in reasons[0]


def test_lora_on_the_projector_is_named_since_a_server_may_leave_it_out() -> None:
    [reason] = not_served(config_of(whole()), ["model.multi_modal_projector.linear_1"])
    assert "enable_tower_connector_lora" in reason


def dora(plain: LoraPair) -> LoraPair:
    return LoraPair(plain.a, plain.b, plain.lora_alpha, torch.ones(8))
