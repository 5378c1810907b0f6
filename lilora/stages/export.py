"""A stage's adapters for others: a stock PEFT LoRA folder, or the merged model. Loading either needs nothing of lilora.

The folder appears when it is complete, holds no path of the machine, and equal states give equal bytes. What depends on
the input - a router's weights, an adapter chosen for each sample - is no single LoRA and no single weight, and is
refused.
"""

from __future__ import annotations

import dataclasses
import json
import re
import secrets
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save

from lilora.adapters.adapters import Adapters, LoraPair
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
        rank: greatest rank of a LoRA pair; None for a merged model.
        parameters: numbers in the written weights.
    """

    modules: int
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
    """Write the adapters that answer `task` to `out`, as a PEFT folder or merged into the backbone.

    Args:
        state: what the stages left, with the parts that `task` needs.
        dtype: of the backbone; the adapters stay in float32.
        about: further entries of `lilora.json`, which says what the folder was made of.

    Raises:
        ValueError: the method cannot be written in this form, `out` is taken, or the state lacks the task.
    """
    check_exportable(method, backbone, merged)
    out = out.absolute()
    check_out(out)
    model = backbone.load_model(dtype)
    staged = out.with_name(f".{out.name}.{secrets.token_hex(4)}")
    adapters = method.attach(model, list(backbone.find_sites(model)), state, task, None)
    try:
        staged.mkdir(parents=True)
        done = _write_merged(adapters, backbone, staged) if merged else _write_lora(adapters, method, backbone, staged)
        content = _description(method, state, backbone, task, merged, dtype) | dict(about or {})
        (staged / ABOUT).write_text(json.dumps(content, indent=2) + "\n")
        staged.rename(out)
    finally:
        adapters.remove()
        shutil.rmtree(staged, ignore_errors=True)
    return done


def check_exportable(method: Method, backbone: Backbone, merged: bool) -> None:
    """Refuse what has no such form, before anything is loaded.

    Raises:
        ValueError: nothing was trained, the update depends on the input, or whole layers were trained beside adapters.
    """
    name = type(method).__name__
    if method.schedule == "none":
        raise ValueError(f"{name} trains nothing, so there is nothing to export: load the backbone itself")
    if backbone.full:
        raise ValueError(
            f"backbone '{backbone.name}' trains whole layers ({', '.join(backbone.full)}) beside the adapters, and an "
            "export would leave what they learned behind: keep the state in the store and answer with lilora; export "
            "a run whose backbone names no `full` layers"
        )
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
    lora_config(pairs, backbone).save_pretrained(str(folder))
    tensors = {}
    for site, pair in pairs.items():
        named = {"lora_A.weight": pair.a, "lora_B.weight": pair.b, "lora_magnitude_vector": pair.magnitude}
        for name, tensor in named.items():
            if tensor is not None:
                tensors[f"base_model.model.{site}.{name}"] = tensor.detach().cpu().clone().contiguous()
    (folder / "adapter_model.safetensors").write_bytes(save(tensors, metadata={"format": "pt"}))
    rank = max(pair.a.shape[0] for pair in pairs.values())
    return Exported(len(pairs), rank, sum(tensor.numel() for tensor in tensors.values()))


def lora_config(pairs: Mapping[str, LoraPair], backbone: Backbone) -> Any:
    """PEFT's configuration of these pairs, by module name.

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
    """The model with the adapters in its weights, and its processor."""
    adapters.merge()
    adapters.model.save_pretrained(folder)
    backbone.load_processor().save_pretrained(folder)
    for path in folder.glob("*.safetensors"):
        path.chmod(0o644)  # safetensors writes it for its owner alone
    return Exported(len(adapters.layers), None, sum(weight.numel() for weight in adapters.model.parameters()))


def _description(
    method: Method, state: State | None, backbone: Backbone, task: str, merged: bool, dtype: str
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
        "dtype": dtype,
    }
