"""The papers' sizes of what a method trains - ranks of eight times the tiny models', the 7B's router - and what in."""

from dataclasses import replace
from typing import Literal

from lilora.backbones import Backbone
from lilora.methods import Method
from lilora.methods.proglora_dynamic import ProgLoRADynamic

#: Of ProgLoRA's router: what gives the 42M of its Table 13 on LLaVA-1.5-7B.
WIDTH = 256


def scaled(method: Method) -> Method:
    """The method with the paper's ranks, eight times ours, its dropout, and of ProgLoRA's router `WIDTH`."""
    numbers = {name: getattr(method, name, None) for name in ("rank", "task_rank", "lora_alpha")}
    changed = {name: 8 * number for name, number in numbers.items() if number} | {"dropout": 0.05}
    if isinstance(method, ProgLoRADynamic):
        changed["width"] = WIDTH
    return replace(method, **{name: value for name, value in changed.items() if hasattr(method, name)})


def answers_in(backbone: Backbone) -> Literal["", "float16"]:
    """LLaVA's published evaluators answer in float16; of Qwen2-VL none is known here, and training's dtype stays."""
    return "float16" if backbone.name.startswith("llava") else ""
