"""A backbone: a pre-trained vision-language model, frozen, that adapters are put on and taken off in place.

A `Backbone` is a value that identifies the weights. The loaded model stays in the process: loading it is paid once,
and after each stage it is what it was, to the bit.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any, Literal

from lilora.backbones import _hub

#: Gate, up and down of every language-model layer and both projector linears: what LiLoRA and SMoLoRA adapt.
LLAVA_SITES = (
    r"model\.language_model\.layers\.\d+\.mlp\.(gate|up|down)_proj",
    r"model\.multi_modal_projector\.linear_[12]",
)
#: The same for Qwen2-VL, whose projector is the merger behind the vision blocks.
QWEN2_VL_SITES = (
    r"model\.language_model\.layers\.\d+\.mlp\.(gate|up|down)_proj",
    r"model\.visual\.merger\.mlp\.[02]",
)
_LAYERS = r"model\.language_model\.layers\.\d+\."
_PROJECTORS = {"llava": LLAVA_SITES[1], "qwen2_vl": QWEN2_VL_SITES[1], "qwen2_5_vl": QWEN2_VL_SITES[1]}
#: Sets of sites of the language model by name: CoIN's and ProgLoRA's "all-linear", and the simple ones of papers that
#: ask what else forgets little (arXiv 2603.14493, 2510.08564). "ffn+projector" is `LLAVA_SITES` or `QWEN2_VL_SITES`.
SITE_SETS = {
    "all-linear": (_LAYERS + r"self_attn\.(q|k|v|o)_proj", _LAYERS + r"mlp\.(gate|up|down)_proj"),
    "ffn": (_LAYERS + r"mlp\.(gate|up|down)_proj",),
    "attention": (_LAYERS + r"self_attn\.(q|k|v|o)_proj",),
    "gate+up": (_LAYERS + r"mlp\.(gate|up)_proj",),
}
_PROJECTOR_CHOICES: tuple[Literal["frozen", "adapted", "full"], ...] = ("frozen", "adapted", "full")
#: Modules that stay frozen, so that their features can be computed once and kept.
VISION_MODULES = ("vision_tower.", "visual.blocks.", "visual.patch_embed", "vision_model.", "vision_encoder.")
#: Parts of a module's name by which the projector is known: LLaVA's, Qwen2-VL's, and what others call it.
PROJECTOR_MODULES = (
    "multi_modal_projector.",
    "visual.merger.",
    "connector.",
    "mm_projector.",
    "embed_vision.",
    "aligner.",
    "vision_projection.",
)


@dataclass(frozen=True)
class Backbone:
    """Identity of a pre-trained model and how it is adapted and asked.

    Attributes:
        name: registry entry.
        revision: which weights: a commit of the hub, or a digest of the shipped file.
        sites: regular expressions; a linear layer is adapted where one matches its whole module name.
        full: the same of linear layers that are trained in full beside the adapters, whatever the method, and carried
            from task to task (`lilora.adapters.full`); none by default.
        template: name of a conversation template of `lilora.model.conversation`; "chat": the processor's own.
        family: which model class and input layout; the name that transformers has for the type of model. "auto": any
            that `AutoModelForImageTextToText` loads, whose answers' tokens do not see what follows them.
        location: a folder, or a name on the hub. Where the weights lie is no part of the identity.
        plain_generation: the checkpoint is known to bring no generation settings of its own, such as a repetition
            penalty. They are put aside in any case; where there may be some, an answer's digest says so, which tells it
            from answers that were made while they still had an effect.
        architecture: what differs from transformers' defaults for the family in the model's published config.json, so
            that the model can be counted without a network; None where `location` has the config.json.
        bits: of each weight of the language model's linear layers, held so by bitsandbytes
            (`lilora.backbones._quantised`): 4, 8, or None for the dtype it is loaded in. Adapters are not merged into
            such weights, so answers are given unmerged.
    """

    name: str
    revision: str
    sites: tuple[str, ...] = LLAVA_SITES
    template: str = "llava_v1_bare"
    family: Literal["llava", "qwen2_vl", "qwen2_5_vl", "auto"] = "llava"
    location: str = field(default="", metadata={"identity": False})
    plain_generation: bool = field(default=False, compare=False, metadata={"identity": False})
    architecture: Mapping[str, Any] | None = field(
        default=None, compare=False, repr=False, metadata={"identity": False}
    )
    full: tuple[str, ...] = ()
    bits: Literal[4, 8] | None = None

    def __post_init__(self) -> None:
        if self.bits not in (None, 4, 8):
            raise ValueError(f"backbone '{self.name}': bits is {self.bits}; it may be: 4, 8, None")

    def adapted(self, sites: str, projector: Literal["adapted", "full", "frozen"] = "frozen") -> Backbone:
        """The same model with other layers adapted: one of `SITE_SETS` in the language model, and its projector adapted
        too, trained in full, or frozen. "ffn+projector" is LiLoRA's, `adapted("all-linear", "full")` CoIN's.

        Raises:
            ValueError: no such set, or the family's projector is not known by name; the message lists the choices.
        """
        if sites == "ffn+projector":
            return self.adapted("ffn", "adapted")
        if sites not in SITE_SETS:
            raise ValueError(f"no set of sites '{sites}'; there are: ffn+projector, {', '.join(SITE_SETS)}")
        if projector != "frozen" and self.family not in _PROJECTORS:
            raise ValueError(f"the projector of family '{self.family}' is not known: name it in `sites` or in `full`")
        own = () if projector == "frozen" else (_PROJECTORS[self.family],)
        patterns = SITE_SETS[sites] + (own if projector == "adapted" else ())
        return replace(self, sites=patterns, full=own if projector == "full" else ())

    @property
    def adapts(self) -> str:
        """Which layers learn, in words: "attention", "all-linear, projector full"; patterns that have no name as they
        are. "" for "ffn+projector", which nobody has to be told.
        """
        if not self.full and self.family in _PROJECTORS and self.sites == self.adapted("ffn+projector").sites:
            return ""
        for name in SITE_SETS:
            for projector in _PROJECTOR_CHOICES if self.family in _PROJECTORS else _PROJECTOR_CHOICES[:1]:
                known = self.adapted(name, projector)
                if (known.sites, known.full) == (self.sites, self.full):
                    return name if projector == "frozen" else f"{name}, projector {projector}"
        return "; ".join([*self.sites, *(f"{pattern} full" for pattern in self.full)])

    def is_here(self) -> bool:
        """Whether the weights are on this machine: in a folder, or in the hub's cache; asks no network."""
        return _hub.is_here(self.location, self.revision)

    def fetch(self) -> None:
        """Have the weights on this machine, from the hub if they are not here.

        Raises:
            ValueError: they cannot be had; the message says what to do, also of a gated model.
        """
        _hub.fetch(self.location, self.revision)

    def load_model(self, dtype: str = "float32", device: str = "cpu") -> Any:
        """The frozen model in evaluation mode; the same object every time in one process.

        Raises:
            ValueError: see `fetch`; or `bits` are asked for, and bitsandbytes is not installed.
        """
        return _load_model(self.location, self.revision, dtype, device, self.bits)

    def load_processor(self) -> Any:
        """The model's processor (tokenizer and image processor); the same object every time in one process.

        Raises:
            ValueError: see `load_model`; or it is LLaVA's and does not say how many tokens a picture takes, and neither
                does the model's configuration.
        """
        from lilora.backbones._processor import load_processor

        return load_processor(self.location, self.revision, self.family)

    def meta_model(self) -> Any:
        """The model on the meta device: every module and shape, no weights, no memory; a new object every time.

        Raises:
            ValueError: there is no `architecture`, and no config.json at `location`.
        """
        import torch
        from transformers import AutoConfig, AutoModelForImageTextToText

        if self.architecture is None:
            config = _hub.read_config(self.location, self.revision)
        else:
            # A copy: a configuration fills in the mappings it is made of.
            config = AutoConfig.for_model(self.family, **copy.deepcopy(dict(self.architecture)))
        with torch.device("meta"):
            return AutoModelForImageTextToText.from_config(config).eval().requires_grad_(False)

    def find_sites(self, model: Any) -> dict[str, tuple[int, int]]:
        """Name and shape (d, k) of each linear layer to adapt, in the model's order.

        Raises:
            ValueError: a pattern of `sites` matches no linear layer, or one in the vision tower, which stays frozen.
        """
        if not self.sites:
            raise ValueError(f"backbone '{self.name}' names no layers to adapt; put into `sites` {_proposal(model)}")
        return self._matching(model, self.sites)

    def find_full(self, model: Any) -> dict[str, tuple[int, int]]:
        """Name and shape (d, k) of each linear layer that is trained in full, in the model's order.

        Raises:
            ValueError: as `find_sites`, of the patterns of `full`.
        """
        return self._matching(model, self.full)

    def _matching(self, model: Any, patterns: Sequence[str]) -> dict[str, tuple[int, int]]:
        from torch import nn

        linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        for pattern in patterns:
            if not any(re.fullmatch(pattern, name) for name in linears):
                raise ValueError(
                    f"backbone '{self.name}': no linear layer is named like '{pattern}'; this model's `sites` may be "
                    f"{_proposal(model)}"
                )
            if any(re.fullmatch(pattern, name) and any(part in name for part in VISION_MODULES) for name in linears):
                raise ValueError(
                    f"backbone '{self.name}': '{pattern}' matches in the vision tower, whose features are computed "
                    "once and kept; adapt the projector and the language model"
                )
        return {
            name: (module.out_features, module.in_features)
            for name, module in linears.items()
            if any(re.fullmatch(pattern, name) for pattern in patterns)
        }


@dataclass(frozen=True)
class SitePatterns:
    """Linear layers of a model that adapters may sit on, as patterns with the number of layers of each.

    Attributes:
        feed_forward: of the language model's blocks; attention: likewise.
        projector: between tower and language model.
        other: the vision tower's, and what could not be told; they stay frozen.
    """

    feed_forward: Mapping[str, int]
    attention: Mapping[str, int]
    projector: Mapping[str, int]
    other: Mapping[str, int]

    @property
    def sites(self) -> tuple[str, ...]:
        """What LiLoRA and SMoLoRA adapt: the language model's feed-forward layers and the projector."""
        return (*self.feed_forward, *self.projector)


def site_patterns(model: Any) -> SitePatterns:
    """The linear layers of any vision-language model of transformers, told apart by their names.

    The language model is what `get_decoder` gives; in its blocks attention is what is called so, the rest is
    feed-forward. What lies outside of it is the projector where its name says so (`PROJECTOR_MODULES`).
    """
    from torch import nn

    decoder = model.get_decoder()
    language = next((f"{name}." for name, module in model.named_modules() if module is decoder), "\0")
    found: dict[str, dict[str, int]] = {field.name: {} for field in fields(SitePatterns)}
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear) or name == "lm_head":
            continue
        if name.startswith(language):
            kind = "attention" if re.search(r"attn|attention", name) else "feed_forward"
        else:
            kind = "projector" if is_projector(name) else "other"
        pattern = re.sub(r"(?<=\\\.)\d+(?=\\\.)", r"\\d+", re.escape(name))
        found[kind][pattern] = found[kind].get(pattern, 0) + 1
    return SitePatterns(**found)


def _proposal(model: Any) -> str:
    sites = ", ".join(f"r'{pattern}'" for pattern in site_patterns(model).sites)
    return f"({sites}); `lilora sites` lists all that there are"


def is_projector(site: str) -> bool:
    """Whether a layer belongs to the projector, whose input is patches and not tokens."""
    return any(part in site for part in PROJECTOR_MODULES)


def forget_models() -> None:
    """Let go of every loaded model: after DeepSpeed has cut one up, or to free memory."""
    _load_model.cache_clear()


@cache
def _load_model(location: str, revision: str, dtype: str, device: str, bits: int | None = None) -> Any:
    import torch
    from transformers import AutoModelForImageTextToText

    if bits is not None:
        from lilora.backbones._quantised import load_quantised

        return load_quantised(location, revision, dtype, device, bits)
    model = _hub.from_pretrained(AutoModelForImageTextToText, location, revision, dtype=getattr(torch, dtype))
    return model.to(device).eval().requires_grad_(False)
