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
import re
import secrets
import shutil
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save

from lilora.adapters.adapters import Adapters, LoraPair
from lilora.adapters.full import attach_full, merge_full
from lilora.adapters.state import State
from lilora.backbones import Backbone
from lilora.methods import Method

ABOUT = "lilora.json"
Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        modules: adapted linear layers.
        full: linear layers trained in full beside them.
        rank: greatest rank of a LoRA pair; None for a merged model.
        parameters: numbers in the written weights.
    """

    modules: int
    full: int
    rank: int | None
    parameters: int


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
        (staged / ABOUT).write_text(json.dumps(content, indent=2) + "\n")
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


def base_model(backbone: Backbone) -> tuple[str, str | None]:
    """What a PEFT folder calls its base: the hub's name and commit; the registry's name for weights in a folder."""
    if Path(backbone.location).is_dir():
        return backbone.name, None
    return backbone.location, backbone.revision


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
    lora_config(pairs, backbone, adapters.full).save_pretrained(str(folder))
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
    return Exported(len(pairs), len(adapters.full), rank, sum(tensor.numel() for tensor in tensors.values()))


def check_saved(full: Collection[str], modules: Collection[str], adapted: Collection[str]) -> None:
    """Refuse layers trained in full that PEFT's `modules_to_save` cannot name alone, be the names whole.

    PEFT saves every module whose name ends in such a name, with or without a dot before it, and puts no LoRA where the
    name matches as a regular expression.

    Args:
        modules: names of all modules of the model.

    Raises:
        ValueError: a name would reach another module.
    """
    for site in full:
        reached = [name for name in modules if name.endswith(site) and name != site]
        reached += [name for name in adapted if re.match(rf"(^|.*\.){site}($|\..*)", name)]
        if reached:
            raise ValueError(
                f"{site} was trained in full, and PEFT would take {reached[0]} for it, whose name is like it: write "
                "the merged model"
            )


def lora_config(pairs: Mapping[str, LoraPair], backbone: Backbone, full: Collection[str] = ()) -> Any:
    """PEFT's configuration of these pairs, by module name, and of the layers trained in full.

    The modules are named by one regular expression, which PEFT matches against the whole name. A list would also match
    every module whose name ends like an entry, and is written in another order each time.
    """
    from peft import LoraConfig

    ranks = {site: pair.a.shape[0] for site, pair in pairs.items()}
    alphas = {site: pair.lora_alpha for site, pair in pairs.items()}
    rank, alpha = _most_common(ranks), _most_common(alphas)
    name, revision = base_model(backbone)
    return LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # PEFT divides it by r, so a float is as good
        lora_dropout=0.0,
        target_modules="|".join(re.escape(site) for site in pairs),
        rank_pattern={_whole(site): own for site, own in ranks.items() if own != rank},
        alpha_pattern={_whole(site): own for site, own in alphas.items() if own != alpha},
        modules_to_save=list(full) or None,
        use_dora=any(pair.magnitude is not None for pair in pairs.values()),
        base_model_name_or_path=name,
        revision=revision,
        inference_mode=True,
    )


def _most_common(values: Mapping[str, Number]) -> Number:
    return Counter(values.values()).most_common(1)[0][0]


def _whole(site: str) -> str:
    """A pattern for this module alone; PEFT lets anything stand before one that does not begin with ^."""
    return f"^{re.escape(site)}"


def _write_merged(adapters: Adapters, backbone: Backbone, folder: Path) -> Exported:
    """The model with the adapters in its weights and what was trained in full in its place, and its processor."""
    adapters.merge()
    merge_full(adapters)
    adapters.model.save_pretrained(folder)
    backbone.load_processor().save_pretrained(folder)
    for path in folder.glob("*.safetensors"):
        path.chmod(0o644)  # safetensors writes it for its owner alone
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
