"""A PEFT folder's configuration: names that reach exactly the adapted layers, and what servers of LoRA cannot take.

Read off their sources (2026): vLLM and SGLang name a layer by the last part of its name, from a list; vLLM refuses
`modules_to_save` and DoRA, scales every layer by the one `lora_alpha / r`, and leaves out LoRA outside of the language
model unless it is told to take it (`enable_tower_connector_lora`, for some models); SGLang knows the language model's
layers alone.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

from lilora.adapters.adapters import LoraPair
from lilora.backbones import Backbone, is_projector

Number = TypeVar("Number", int, float)


def base_model(backbone: Backbone) -> tuple[str, str | None]:
    """What a PEFT folder calls its base: the hub's name and commit; the registry's name for weights in a folder."""
    if Path(backbone.location).is_dir():
        return backbone.name, None
    return backbone.location, backbone.revision


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


def target_modules(sites: Collection[str], modules: Collection[str]) -> list[str] | str:
    """PEFT's `target_modules` that name exactly `sites` among all `modules` of a model, sorted.

    PEFT takes an entry of a list for every module whose name is it or ends in it behind a dot. So layers are named by
    their last part ("q_proj") where all modules of that name are sites, and else, as where the vision tower has layers
    of the same name, each by its whole name: a list is what vLLM and SGLang read. Where a whole name ends another
    module's, which is no site, there is none but one regular expression, matched against whole names.
    """
    wanted = set(sites)

    def reached(name: str) -> set[str]:
        return {module for module in modules if module == name or module.endswith(f".{name}")}

    last = {site.rpartition(".")[2] for site in sites}
    alone = {name for name in last if reached(name) <= wanted}
    whole = {site for site in sites if site.rpartition(".")[2] not in alone}
    if any(not reached(site) <= wanted for site in whole):
        return "|".join(re.escape(site) for site in sites)
    return sorted(alone | whole)


def lora_config(
    pairs: Mapping[str, LoraPair], backbone: Backbone, modules: Collection[str], full: Collection[str] = ()
) -> Any:
    """PEFT's configuration of these pairs, by module name, and of the layers trained in full.

    Args:
        modules: names of all modules of the model, so that `target_modules` reach no other.
    """
    from peft import LoraConfig

    ranks = {site: pair.a.shape[0] for site, pair in pairs.items()}
    alphas = {site: pair.lora_alpha for site, pair in pairs.items()}
    rank, alpha = _most_common(ranks), _most_common(alphas)
    name, revision = base_model(backbone)
    return LoraConfig(
        r=rank,
        lora_alpha=int(alpha) if alpha == int(alpha) else alpha,  # type: ignore[arg-type]  # PEFT divides it by r
        lora_dropout=0.0,
        target_modules=target_modules(pairs, modules),
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


def write_config(config: Any, folder: Path) -> None:
    """`adapter_config.json` as PEFT writes it, with the names in order: PEFT keeps them as a set."""
    config.save_pretrained(str(folder))
    path = folder / "adapter_config.json"
    said = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(said["target_modules"], list):
        said["target_modules"].sort()
    path.write_text(json.dumps(said, indent=2, sort_keys=True), encoding="utf-8")


def not_served(config: Any, sites: Collection[str]) -> tuple[str, ...]:
    """Why vLLM or SGLang would refuse a folder of this configuration, or answer otherwise than PEFT; () if neither."""
    reasons = {
        "layers trained in full (modules_to_save)": bool(config.modules_to_save),
        "DoRA": config.use_dora,
        "ranks or scales that differ from layer to layer": bool(config.rank_pattern or config.alpha_pattern),
        "layers that a pattern alone can name": isinstance(config.target_modules, str),
        "LoRA on the projector (vLLM takes it with enable_tower_connector_lora, and leaves it out without)": any(
            is_projector(site) for site in sites
        ),
    }
    return tuple(reason for reason, holds in reasons.items() if holds)
