"""A stage's adapters for others: a stock PEFT LoRA folder, or the merged model. Loading either needs nothing of lilora.

The folder appears when it is complete, holds no path of the machine, and equal states give equal bytes. What depends on
the input - a router's weights, an adapter chosen for each sample - is no single LoRA and no single weight, and is
refused.

Layers trained in full beside the adapters go with them, weight and bias: in the merged model in their places, in a PEFT
folder as its `modules_to_save`. Both hold them in the backbone's dtype once they are loaded; our own answers are given
in float32 (`lilora.adapters.full`), so that a backbone in bfloat16 gives logits that differ by this rounding.
"""

from __future__ import annotations

import dataclasses
import json
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from lilora.adapters.adapters import Adapters
from lilora.adapters.full import attach_full, merge_full
from lilora.adapters.state import State
from lilora.backbones import Backbone
from lilora.core.files import give_usual_modes
from lilora.methods import Method
from lilora.stages.peft_config import base_model, check_saved, lora_config, not_served, write_config

ABOUT = "lilora.json"


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        modules: adapted linear layers.
        full: linear layers trained in full beside them.
        rank: greatest rank of a LoRA pair; None for a merged model.
        parameters: numbers in the written weights.
        not_served: why servers of LoRA folders (vLLM, SGLang) cannot take it as it is; none for a merged model.
    """

    modules: int
    full: int
    rank: int | None
    parameters: int
    not_served: tuple[str, ...] = ()


def export(
    method: Method,
    state: State | None,
    backbone: Backbone,
    task: str,
    out: Path,
    *,
    merged: bool = False,
    dtype: str = "float32",
    about: Mapping[str, Any] | None = None,
) -> Exported:
    """Write what answers `task` to `out`, as a PEFT folder or merged into the backbone.

    Args:
        state: what the stages left, with the parts that `task` needs.
        dtype: of the backbone; in a PEFT folder all tensors are in float32.
        about: further entries of `lilora.json`, which says what the folder was made of.

    Raises:
        ValueError: the method cannot be written in this form, `out` is taken, or the state lacks the task or a layer
            that the backbone trains in full.
    """
    check_exportable(method, merged)
    if merged and backbone.bits is not None:
        raise ValueError(
            f"weights of {backbone.bits} bits take no update in: write a LoRA folder, to be put on them as they are"
        )
    out = out.absolute()
    check_out(out)
    model = backbone.load_model(dtype)
    staged = out.with_name(f".{out.name}.{secrets.token_hex(4)}")
    full = list(backbone.find_full(model))
    adapters = method.attach(model, list(backbone.find_sites(model)), state, task, None)
    try:
        attach_full(adapters, full, state, trains=False)
        staged.mkdir(parents=True)
        done = _write_merged(adapters, backbone, staged) if merged else _write_lora(adapters, method, backbone, staged)
        content = _description(method, state, backbone, task, merged, dtype, full) | dict(about or {})
        content["not_served"] = list(done.not_served)
        (staged / ABOUT).write_text(json.dumps(content, indent=2) + "\n")
        give_usual_modes(staged)
        staged.rename(out)
    finally:
        adapters.remove()
        shutil.rmtree(staged, ignore_errors=True)
    return done


def check_exportable(method: Method, merged: bool) -> None:
    """Refuse what has no such form, before anything is loaded.

    Raises:
        ValueError: nothing was trained, or the update depends on the input.
    """
    name = type(method).__name__
    if method.schedule == "none":
        raise ValueError(f"{name} trains nothing, so there is nothing to export: load the backbone itself")
    if not method.mergeable:
        form = "one set of weights" if merged else "a LoRA folder"
        raise ValueError(
            f"{name} cannot be written as {form}: its update depends on the input (a router weighs the experts for "
            "each token, or an adapter is chosen for each sample), while a LoRA pair and a merged weight hold one "
            "update for all inputs. Keep its state in the store and answer with lilora; export a method without a "
            "router"
        )


def check_out(out: Path) -> None:
    """Refuse a place that is taken.

    Raises:
        ValueError: `out` is a file, or a folder with something in it.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is there already: remove it, or name another folder")


@torch.no_grad()
def _write_lora(adapters: Adapters, method: Method, backbone: Backbone, folder: Path) -> Exported:
    """`adapter_config.json` and `adapter_model.safetensors`, in PEFT's own names."""
    if adapters.fold is None:
        raise ValueError(
            f"{type(method).__name__} has no `fold` that gives its update as a LoRA pair: write the merged model"
        )
    pairs = {site: adapters.fold(layer) for site, layer in adapters.layers.items()}
    names = [name for name, _ in adapters.model.named_modules(remove_duplicate=False)]
    check_saved(adapters.full, names, pairs)
    config = lora_config(pairs, backbone, names, adapters.full)
    write_config(config, folder)
    learned = {site: dict(adapters.model.get_submodule(site).tensors) for site in adapters.full}
    for site, pair in pairs.items():
        learned[site] = {"lora_A.weight": pair.a, "lora_B.weight": pair.b, "lora_magnitude_vector": pair.magnitude}
    tensors = {
        f"base_model.model.{site}.{name}": tensor.detach().cpu().clone().contiguous()
        for site, named in learned.items()
        for name, tensor in named.items()
        if tensor is not None
    }
    (folder / "adapter_model.safetensors").write_bytes(save(tensors, metadata={"format": "pt"}))
    rank = max(pair.a.shape[0] for pair in pairs.values())
    parameters = sum(tensor.numel() for tensor in tensors.values())
    return Exported(len(pairs), len(adapters.full), rank, parameters, not_served(config, pairs))


def _write_merged(adapters: Adapters, backbone: Backbone, folder: Path) -> Exported:
    """The model with the adapters in its weights and what was trained in full in its place, and its processor."""
    adapters.merge()
    merge_full(adapters)
    adapters.model.save_pretrained(folder)
    backbone.load_processor().save_pretrained(folder)
    parameters = sum(weight.numel() for weight in adapters.model.parameters())
    return Exported(len(adapters.layers), len(adapters.full), None, parameters)


def _description(
    method: Method, state: State | None, backbone: Backbone, task: str, merged: bool, dtype: str, full: list[str]
) -> dict[str, Any]:
    load = "transformers.AutoModelForImageTextToText.from_pretrained(FOLDER)"
    if not merged:
        load = f"peft.PeftModel.from_pretrained(base, FOLDER); base: the backbone, loaded with dtype {dtype}"
    name, _ = base_model(backbone)
    return {
        "format": 1,
        "what": "merged model" if merged else "PEFT LoRA adapter",
        "load": load,
        "task": task,
        "learned": list(state.tasks) if state is not None else [],
        "method": {"type": type(method).__name__, **dataclasses.asdict(method)},
        "backbone": {"name": backbone.name, "base": name, "revision": backbone.revision, "template": backbone.template},
        "full": full,
        "dtype": dtype,
    }
