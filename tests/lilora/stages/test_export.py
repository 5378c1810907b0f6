"""Exported folders, as transformers and PEFT read them without this package."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from peft import inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lilora.adapters.adapters import Adapters, LoraPair
from lilora.adapters.state import State, load_state
from lilora.backbones import Backbone
from lilora.core import registry
from lilora.methods import Method
from lilora.methods.lilora import LiLoRA
from lilora.methods.seqlora import SeqLoRA
from lilora.methods.zeroshot import ZeroShot
from lilora.model.tokens import load_task
from lilora.stages.export import base_model, export, lora_config
from tests.lilora.lab import TASKS, Lab, cases, files, small

FOLDABLE = {name: method for name, method in cases().items() if method.mergeable}
ROUTED = [name for name in registry.names("methods") if not small(name).mergeable and small(name).schedule != "none"]
MERGED = ("seqlora", "lilora")
#: Methods that add several tasks' updates one after another, where stock PEFT multiplies by one stacked pair.
STACKED = ("clora", "proglora_static")
#: One fixture trains every case and starts a process that imports PEFT.
pytestmark = pytest.mark.timeout(900)
SCRIPT = Path(__file__).with_name("stock_peft.py")


@dataclass(frozen=True)
class Comparison:
    """Logits of ours, and of the exported folders in a process that has nothing of ours, by the folder's name."""

    ours: dict[str, Tensor]
    stock: dict[str, Tensor]
    folders: Path


def answering(method: Method) -> Method:
    return method.stage_method()


def exported(lab: Lab, method: Method, out: Path, merged: bool = False, task: str = TASKS[1]) -> Path:
    export(answering(method), load_state(lab.stage(method, 1)), lab.backbone, task, out, merged=merged)
    return out


@contextmanager
def attached(lab: Lab, method: Method, task: str) -> Iterator[Adapters]:
    state = load_state(lab.stage(method, 1))
    adapters = answering(method).attach(lab.model, list(lab.sites), state, task, None)
    try:
        yield adapters
    finally:
        adapters.remove()


@pytest.fixture(scope="module")
def inputs(lab: Lab) -> dict[str, Tensor]:
    """Four rows of a task, as transformers' own forward takes them."""
    data = load_task(lab.backbone, lab.data["Colour"], "test")
    batch = data.training_batch(range(4))
    pictures = [data.picture(data.image_of[row]) for row in range(4)]
    pixels = lab.backbone.load_processor().image_processor(pictures, return_tensors="pt")["pixel_values"]
    return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "pixel_values": pixels}


@pytest.fixture(scope="module")
def comparison(lab: Lab, inputs: dict[str, Tensor]) -> Comparison:
    """Every case once, all folders read by one process, since its imports take seconds."""
    root = lab.folder()
    ours: dict[str, Tensor] = {}
    for name, method in FOLDABLE.items():
        exported(lab, method, root / name)
        with attached(lab, method, TASKS[1]) as adapters, torch.no_grad():
            ours[name] = lab.model(**inputs).logits
            if name in MERGED:
                adapters.merge()
                ours[f"{name}-merged"] = lab.model(**inputs).logits
    for name in MERGED:
        exported(lab, FOLDABLE[name], root / f"{name}-merged", merged=True)
    save_file(inputs, root / "inputs.safetensors")
    command = [sys.executable, "-I", str(SCRIPT), lab.backbone.location, str(root / "inputs.safetensors")]
    folders = [str(root / name) for name in ours]
    done = subprocess.run(
        [*command, str(root / "logits.safetensors"), *folders], capture_output=True, text=True, cwd=root, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return Comparison(ours, load_file(root / "logits.safetensors"), root)


@pytest.mark.parametrize("name", FOLDABLE)
def test_a_folded_export_gives_the_same_logits_in_stock_peft(comparison: Comparison, name: str) -> None:
    stock, ours = comparison.stock[name], comparison.ours[name]
    if name.partition("-")[0] in STACKED:
        # The same float32 sums in another order: some ulps of logits of size 10.
        torch.testing.assert_close(stock, ours, rtol=1e-4, atol=1e-4)
    else:
        assert torch.equal(stock, ours)


@pytest.mark.parametrize("name", MERGED)
def test_an_exported_merged_model_gives_the_logits_of_our_merged_one(comparison: Comparison, name: str) -> None:
    merged = f"{name}-merged"
    assert torch.equal(comparison.stock[merged], comparison.ours[merged])
    assert not torch.equal(comparison.ours[merged], comparison.ours[name])


def test_different_adapters_give_different_logits(comparison: Comparison, lab: Lab, inputs: dict[str, Tensor]) -> None:
    with torch.no_grad():
        bare = lab.model(**inputs).logits
    assert all((logits - bare).abs().max() > 0.1 for logits in comparison.stock.values())
    assert not torch.equal(comparison.stock["seqlora"], comparison.stock["lilora"])


def test_an_export_names_no_place_on_this_machine_and_holds_no_pickle(comparison: Comparison, lab: Lab) -> None:
    written = [path for path in comparison.folders.glob("*/*") if path.is_file()]
    places = [str(lab.root), str(Path.home()), str(Path(__file__).parents[3])]
    for path in written:
        assert path.suffix in (".json", ".safetensors", ".jinja"), path
        content = path.read_bytes()
        assert not any(place.encode() in content for place in places if place != "/"), path


def test_the_tensors_have_pefts_own_names(comparison: Comparison, lab: Lab) -> None:
    kinds = {f"base_model.model.{site}.lora_{side}.weight" for site in lab.sites for side in "AB"}
    assert set(load_file(comparison.folders / "lilora" / "adapter_model.safetensors")) == kinds
    assert {path.name for path in (comparison.folders / "lilora").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "lilora.json",
    }


def test_equal_states_give_equal_bytes(comparison: Comparison, lab: Lab) -> None:
    again = exported(lab, FOLDABLE["lilora"], lab.folder() / "again")
    assert files(again) == files(comparison.folders / "lilora")


def test_an_export_says_what_it_was_made_of(lab: Lab) -> None:
    method, out = LiLoRA(rank=4, lora_alpha=8), lab.folder() / "lilora"
    done = export(
        method, load_state(lab.stage(method, 1)), lab.backbone, "Colour", out, about={"study": "a study", "stage": "0f"}
    )
    said = json.loads((out / "lilora.json").read_text())
    assert (said["study"], said["stage"]) == ("a study", "0f")
    assert (said["task"], said["learned"], said["dtype"]) == ("Colour", ["Colour", "Place"], "float32")
    assert (said["method"]["type"], said["method"]["rank"]) == ("LiLoRA", 4)
    assert (said["backbone"]["name"], said["backbone"]["revision"]) == ("tiny", "random-1")
    sizes = sum(4 * (d + k) for d, k in lab.sites.values())
    assert (done.modules, done.rank, done.parameters) == (len(lab.sites), 4, sizes)


def test_each_task_of_lilora_gets_its_own_adapter_over_one_a(lab: Lab) -> None:
    one, other = (exported(lab, FOLDABLE["lilora"], lab.folder() / task, task=task) for task in TASKS)
    a, b = (load_file(folder / "adapter_model.safetensors") for folder in (one, other))
    for name, tensor in a.items():
        assert torch.equal(tensor, b[name]) == ("lora_A" in name)


def test_exporting_leaves_the_backbone_as_it_was(lab: Lab) -> None:
    before, names = lab.backbone_bytes(), [name for name, _ in lab.model.named_modules()]
    for merged in (False, True):
        exported(lab, SeqLoRA(rank=4, lora_alpha=8), lab.folder() / "out", merged)
    assert lab.backbone_bytes() == before
    assert [name for name, _ in lab.model.named_modules()] == names


def test_layers_trained_in_full_are_refused_and_not_left_behind(lab: Lab) -> None:
    full, out = lab.on(lab.backbone.adapted("ffn", "full")), lab.folder() / "out"
    state = load_state(full.stage(small("seqlora"), 0))
    for merged in (False, True):
        with pytest.raises(ValueError, match="an export would leave what they learned behind"):
            export(small("seqlora"), state, full.backbone, "Colour", out, merged=merged)
    assert not out.exists()


def test_a_place_that_is_taken_is_refused_and_an_empty_folder_is_not(lab: Lab) -> None:
    method, out = SeqLoRA(rank=4, lora_alpha=8), lab.folder()
    exported(lab, method, out)
    before = files(out)
    with pytest.raises(ValueError, match="is there already: remove it"):
        exported(lab, method, out)
    assert files(out) == before


def test_an_export_that_fails_leaves_nothing_behind(lab: Lab) -> None:
    method, folder = LiLoRA(rank=4, lora_alpha=8), lab.folder()
    state = load_state(lab.stage(method, 1))
    with pytest.raises(ValueError, match="no part for task 'Caption'"):
        export(method, state, lab.backbone, "Caption", folder / "out")
    with pytest.raises(TypeError):
        export(method, state, lab.backbone, "Colour", folder / "out", about={"not JSON": object()})
    assert list(folder.iterdir()) == []
    assert not any("lora" in name.lower() for name, _ in lab.model.named_modules())


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("name", ROUTED)
def test_a_method_that_depends_on_the_input_says_why_it_cannot_be_exported(lab: Lab, name: str, merged: bool) -> None:
    with pytest.raises(ValueError, match="its update depends on the input"):
        export(small(name), State((), {}), lab.backbone, "Colour", lab.folder() / "out", merged=merged)


def test_zero_shot_has_nothing_to_export(lab: Lab) -> None:
    with pytest.raises(ValueError, match="trains nothing"):
        export(ZeroShot(), None, lab.backbone, "Colour", lab.folder() / "out")


class Nested(nn.Module):
    """Two branches whose linears end in the same names."""

    def __init__(self) -> None:
        super().__init__()
        self.text = nn.ModuleDict({"up": nn.Linear(6, 8), "down": nn.Linear(8, 6)})
        self.tower = nn.ModuleDict({"text": nn.ModuleDict({"up": nn.Linear(6, 8), "down": nn.Linear(8, 6)})})


def pair(rank: int, lora_alpha: float = 8.0) -> LoraPair:
    return LoraPair(torch.zeros(rank, 6), torch.zeros(8, rank), lora_alpha)


def test_peft_adapts_exactly_the_named_modules_and_no_other_with_the_same_ending() -> None:
    model = inject_adapter_in_model(lora_config({"text.up": pair(2)}, Backbone("x", "1", location="org/x")), Nested())
    assert [name for name, module in model.named_modules() if isinstance(module, LoraLayer)] == ["text.up"]


def test_ranks_and_scales_of_single_modules_reach_exactly_those_modules() -> None:
    pairs = {"text.down": pair(2), "text.up": pair(4, 6.0), "tower.text.up": pair(2), "tower.text.down": pair(3)}
    model = inject_adapter_in_model(lora_config(pairs, Backbone("x", "1", location="org/x")), Nested())
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
