"""Exported folders, as transformers and PEFT read them without this package."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.utils import ModulesToSaveWrapper
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForImageTextToText

from lilora.adapters.adapters import Adapters
from lilora.adapters.full import attach_full
from lilora.adapters.state import State, load_state
from lilora.core import registry
from lilora.methods import Method
from lilora.methods.lilora import LiLoRA
from lilora.methods.seqlora import SeqLoRA
from lilora.methods.zeroshot import ZeroShot
from lilora.model.tokens import load_task
from lilora.stages.export import export
from tests.lilora.lab import TASKS, Lab, cases, files, small
from tests.lilora.tiny import QWEN

FOLDABLE = {name: method for name, method in cases().items() if method.mergeable}
ROUTED = [name for name in registry.names("methods") if not small(name).mergeable and small(name).schedule != "none"]
MERGED = ("seqlora", "lilora")
#: On the backbone whose projector is trained in full: carried LoRA, one told which task is asked, stacked ones, DoRA.
FULL = {f"{name}-full": FOLDABLE[name] for name in ("seqlora", "lilora", "proglora_static", "dora")}
#: Methods that add several tasks' updates one after another, where stock PEFT multiplies by one stacked pair.
STACKED = ("clora", "proglora_static")
#: One fixture trains every case and starts a process that imports PEFT.
pytestmark = pytest.mark.timeout(900)
PROJECTOR = "LoRA on the projector (vLLM takes it with enable_tower_connector_lora, and leaves it out without)"
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
    state, full = load_state(lab.stage(method, 1)), list(lab.backbone.find_full(lab.model))
    adapters = answering(method).attach(lab.model, list(lab.sites), state, task, None)
    try:
        attach_full(adapters, full, state, trains=False)
        yield adapters
    finally:
        adapters.remove()


@pytest.fixture(name="full_lab", scope="module")
def _full_lab(lab: Lab) -> Lab:
    """All linear layers of the language model adapted, the projector trained in full beside them."""
    return lab.on(lab.backbone.adapted("all-linear", "full"))


@pytest.fixture(scope="module")
def inputs(lab: Lab) -> dict[str, Tensor]:
    """Four rows of a task, as transformers' own forward takes them."""
    data = load_task(lab.backbone, lab.data["Colour"], "test")
    batch = data.training_batch(range(4))
    pictures = [data.picture(data.image_of[row]) for row in range(4)]
    pixels = lab.backbone.load_processor().image_processor(pictures, return_tensors="pt")["pixel_values"]
    return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "pixel_values": pixels}


@pytest.fixture(scope="module")
def comparison(lab: Lab, full_lab: Lab, inputs: dict[str, Tensor]) -> Comparison:
    """Every case once, all folders read by one process, since its imports take seconds."""
    root = lab.folder()
    ours: dict[str, Tensor] = {}
    for name, method in (FOLDABLE | FULL).items():
        on = full_lab if name in FULL else lab
        exported(on, method, root / name)
        with attached(on, method, TASKS[1]) as adapters, torch.no_grad():
            ours[name] = lab.model(**inputs).logits
            if name in (*MERGED, *FULL):
                adapters.merge()
                ours[f"{name}-merged"] = lab.model(**inputs).logits
        if name in (*MERGED, *FULL):
            exported(on, method, root / f"{name}-merged", merged=True)
    save_file(inputs, root / "inputs.safetensors")
    command = [sys.executable, "-I", str(SCRIPT), lab.backbone.location, str(root / "inputs.safetensors")]
    folders = [str(root / name) for name in ours]
    done = subprocess.run(
        [*command, str(root / "logits.safetensors"), *folders], capture_output=True, text=True, cwd=root, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return Comparison(ours, load_file(root / "logits.safetensors"), root)


@pytest.mark.parametrize("name", FOLDABLE | FULL)
def test_a_folded_export_gives_the_same_logits_in_stock_peft(comparison: Comparison, name: str) -> None:
    stock, ours = comparison.stock[name], comparison.ours[name]
    if name.partition("-")[0] in STACKED:
        # The same float32 sums in another order: some ulps of logits of size 10.
        torch.testing.assert_close(stock, ours, rtol=1e-4, atol=1e-4)
    else:
        assert torch.equal(stock, ours)


@pytest.mark.parametrize("name", [*MERGED, *FULL])
def test_an_exported_merged_model_gives_the_logits_of_our_merged_one(comparison: Comparison, name: str) -> None:
    merged = f"{name}-merged"
    assert torch.equal(comparison.stock[merged], comparison.ours[merged])
    assert not torch.equal(comparison.ours[merged], comparison.ours[name])
    # W + delta is rounded once for all inputs, where the adapters add what they give to W x.
    torch.testing.assert_close(comparison.stock[merged], comparison.ours[name], rtol=1e-4, atol=1e-4)


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


@pytest.mark.parametrize("name", ["lilora", "lilora-full", "lilora-full-merged"])
def test_equal_states_give_equal_bytes(comparison: Comparison, lab: Lab, full_lab: Lab, name: str) -> None:
    on, out = full_lab if "full" in name else lab, lab.folder() / "again"
    again = exported(on, FOLDABLE["lilora"], out, merged=name.endswith("merged"))
    assert files(again) == files(comparison.folders / name)


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
    assert (done.modules, done.full, done.rank, done.parameters) == (len(lab.sites), 0, 4, sizes)
    assert said["full"] == []
    assert said["not_served"] == list(done.not_served) == [PROJECTOR]
    assert json.loads((out / "adapter_config.json").read_text())["modules_to_save"] is None


def test_each_task_of_lilora_gets_its_own_adapter_over_one_a(lab: Lab) -> None:
    one, other = (exported(lab, FOLDABLE["lilora"], lab.folder() / task, task=task) for task in TASKS)
    a, b = (load_file(folder / "adapter_model.safetensors") for folder in (one, other))
    for name, tensor in a.items():
        assert torch.equal(tensor, b[name]) == ("lora_A" in name)


def test_exporting_leaves_the_backbone_as_it_was(lab: Lab, full_lab: Lab) -> None:
    before, modules = lab.backbone_bytes(), dict(lab.model.named_modules())
    for on in (lab, full_lab):
        for merged in (False, True):
            exported(on, SeqLoRA(rank=4, lora_alpha=8), lab.folder() / "out", merged)
    assert lab.backbone_bytes() == before
    assert dict(lab.model.named_modules()) == modules


def test_layers_trained_in_full_are_written_as_peft_itself_writes_them(comparison: Comparison, full_lab: Lab) -> None:
    folder, state = comparison.folders / "seqlora-full", load_state(full_lab.stage(FULL["seqlora-full"], 1))
    full, written = full_lab.backbone.find_full(full_lab.model), load_file(folder / "adapter_model.safetensors")
    assert json.loads((folder / "adapter_config.json").read_text())["modules_to_save"] == list(full)
    model = PeftModel.from_pretrained(copy.deepcopy(full_lab.model), folder)
    peft = get_peft_model_state_dict(model, save_embedding_layers=False)
    assert peft.keys() == written.keys()
    assert all(torch.equal(peft[name], tensor) for name, tensor in written.items())
    for name in (f"{site}.{part}" for site in full for part in ("weight", "bias")):
        assert torch.equal(written[f"base_model.model.{name}"], state.shared[name])
        assert not torch.equal(written[f"base_model.model.{name}"], full_lab.model.get_parameter(name))
    base = model.get_base_model()
    assert [name for name, module in base.named_modules() if isinstance(module, ModulesToSaveWrapper)] == list(full)
    assert {name for name, module in base.named_modules() if isinstance(module, LoraLayer)} == set(full_lab.sites)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_merged_model_holds_what_was_trained_in_full_in_the_backbones_dtype(full_lab: Lab, dtype: str) -> None:
    method, out = FULL["lilora-full"], full_lab.folder() / "out"
    state = load_state(full_lab.stage(method, 1))
    done = export(method, state, full_lab.backbone, "Colour", out, merged=True, dtype=dtype)
    written, full = load_file(out / "model.safetensors"), full_lab.backbone.find_full(full_lab.model)
    for name in (f"{site}.{part}" for site in full for part in ("weight", "bias")):
        held = written[name.removeprefix("model.")]
        assert torch.equal(held, state.shared[name].to(getattr(torch, dtype)))
    assert (done.modules, done.full, done.rank) == (len(full_lab.sites), 2, None)
    assert done.parameters == sum(tensor.numel() for tensor in full_lab.model.parameters())


def test_what_was_trained_in_full_is_counted_and_named(full_lab: Lab) -> None:
    method, out = FULL["seqlora-full"], full_lab.folder() / "out"
    done = export(method, load_state(full_lab.stage(method, 1)), full_lab.backbone, "Colour", out)
    full = full_lab.backbone.find_full(full_lab.model)
    sizes = sum(4 * (d + k) for d, k in full_lab.sites.values()) + sum(d * k + d for d, k in full.values())
    assert (done.modules, done.full, done.rank, done.parameters) == (len(full_lab.sites), 2, 4, sizes)
    said = json.loads((out / "lilora.json").read_text())
    assert said["full"] == list(full)
    assert said["not_served"] == list(done.not_served) == ["layers trained in full (modules_to_save)"]


def test_a_layer_without_a_bias_is_written_without_one(lab: Lab) -> None:
    site = next(iter(lab.backbone.adapted("ffn").find_sites(lab.model)))
    backbone = replace(lab.backbone.adapted("attention"), full=(re.escape(site),))
    method, out = FULL["seqlora-full"], lab.folder()
    state = load_state(lab.on(backbone).stage(method, 0))
    for merged in (False, True):
        export(method, state, backbone, "Colour", out / str(merged), merged=merged)
    assert lab.model.get_submodule(site).bias is None
    written = load_file(out / "False" / "adapter_model.safetensors")
    assert [name for name in written if site in name] == [f"base_model.model.{site}.weight"]
    PeftModel.from_pretrained(copy.deepcopy(lab.model), out / "False")


@pytest.mark.parametrize("sites", ["attention", "ffn"])
def test_layers_that_share_their_names_with_the_vision_towers_are_loaded_alone(lab: Lab, sites: str) -> None:
    on, method = lab.on(lab.backbone.adapted(sites)), SeqLoRA(rank=4, lora_alpha=8)
    folder = exported(on, method, lab.folder() / "out")
    names = json.loads((folder / "adapter_config.json").read_text())["target_modules"]
    # CLIP has a q_proj, k_proj and v_proj of its own, and its o_proj is called out_proj.
    whole = [name for name in sorted(on.sites) if not name.endswith("o_proj")]
    assert names == ([*whole, "o_proj"] if sites == "attention" else ["down_proj", "gate_proj", "up_proj"])
    assert json.loads((folder / "lilora.json").read_text())["not_served"] == []
    with attached(on, method, TASKS[1]):
        ours = on.logits().detach()
    stock = copy.copy(on)
    stock.model = PeftModel.from_pretrained(copy.deepcopy(lab.model), folder).eval().get_base_model()
    assert {name for name, module in stock.model.named_modules() if isinstance(module, LoraLayer)} == set(on.sites)
    assert torch.equal(stock.logits().detach(), ours)
    assert not torch.allclose(lab.logits().detach(), ours, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("merged", [False, True])
def test_the_merger_of_qwen2_vl_is_exported_too(tmp_path: Path, merged: bool) -> None:
    plain = Lab(tmp_path, QWEN)
    lab, method = plain.on(plain.backbone.adapted("ffn", "full")), FULL["seqlora-full"]
    out = exported(lab, method, lab.folder() / "out", merged)
    with attached(lab, method, TASKS[1]):
        ours = lab.logits().detach()
    stock = copy.copy(lab)
    if merged:
        stock.model = AutoModelForImageTextToText.from_pretrained(out).eval().requires_grad_(False)
    else:
        stock.model = PeftModel.from_pretrained(copy.deepcopy(lab.model), out).eval().get_base_model()
    torch.testing.assert_close(stock.logits().detach(), ours, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(lab.logits().detach(), ours, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("merged", [False, True])
def test_a_state_whose_stages_trained_nothing_in_full_is_refused(lab: Lab, full_lab: Lab, merged: bool) -> None:
    on, folder = lab.on(lab.backbone.adapted("all-linear")), lab.folder()
    state, before = load_state(on.stage(FULL["seqlora-full"], 0)), lab.backbone_bytes()
    with pytest.raises(ValueError, match="its stages did not train .* in full"):
        export(FULL["seqlora-full"], state, full_lab.backbone, "Colour", folder / "out", merged=merged)
    assert list(folder.iterdir()) == []
    assert lab.backbone_bytes() == before


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
