"""The sizes of a backbone that costs are counted from: read off the model on the meta device, without weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from lilora.backbones import VISION_MODULES, Backbone, is_projector
from lilora.backbones._quantised import quantised_bytes
from lilora.costs.parameters import num_full
from lilora.methods import Sites

#: A picture whose size nobody knows, where its tokens depend on it: width and height in pixels (VQAv2's are such).
PICTURE = (640, 480)


@dataclass(frozen=True)
class ModelSizes:
    """What a forward pass multiplies and keeps.

    Attributes:
        parameters: of the whole model.
        sites: linear layers that adapters may sit on, by name.
        same_input: those of them that are given the same tensor as a site before them: `up_proj` beside `gate_proj`.
        product_input: those that are given the product of two tensors: `down_proj` behind them.
        layers, hidden, intermediate: of the language model.
        keys: width of its keys, and of its values; below `hidden` where `heads` share them.
        attention_weights, feed_forward_weights: in one layer's linears.
        vocabulary: rows of the head.
        projector_weights: in the projector's linears.
        tower_weights, tower_layers, tower_hidden: of the vision tower; its convolution counts as a linear layer.
        tower_tokens: that a picture is in the tower.
        image_tokens: that a picture is in the prompt.
        feature_width: of what the tower hands to the projector.
        fixed_pictures: whether every picture has `image_tokens`; else it is what one of `PICTURE` has.
        full: parameters of the linear layers that are trained in full beside the adapters.
        quantised: weights that are held in fewer bits (`Backbone.bits`); quantised_bytes: what they take, with their
            scales; largest_quantised: of the largest matrix of them, which is made whole for each product.
    """

    parameters: int
    sites: Sites
    same_input: frozenset[str]
    product_input: frozenset[str]
    layers: int
    hidden: int
    intermediate: int
    keys: int
    heads: int
    attention_weights: int
    feed_forward_weights: int
    vocabulary: int
    projector_weights: int
    tower_weights: int
    tower_layers: int
    tower_hidden: int
    tower_tokens: int
    image_tokens: int
    feature_width: int
    fixed_pictures: bool
    full: int = 0
    quantised: int = 0
    quantised_bytes: float = 0.0
    largest_quantised: int = 0

    def weight_bytes(self, element: int) -> float:
        """Of the frozen model, with `element` bytes a weight that is not quantised."""
        return float((self.parameters - self.quantised) * element) + self.quantised_bytes

    @property
    def mergeable(self) -> bool:
        """Whether its weights take updates in."""
        return not self.quantised


@lru_cache(maxsize=8)
def model_sizes(backbone: Backbone) -> ModelSizes:
    """The sizes of `backbone`.

    Raises:
        ValueError: it cannot be built on the meta device, or is of a family whose costs nobody has written down.
    """
    if backbone.family == "auto":
        raise ValueError(
            f"backbone '{backbone.name}' is of the family 'auto', whose costs are not known: count those of backbones "
            "of the families llava, qwen2_vl and qwen2_5_vl"
        )
    model = backbone.meta_model()
    text = model.config.text_config
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    weights = dict(_weights(model))
    language = {name: size for name, size in weights.items() if "language_model.layers." in name}
    attention = sum(size for name, size in language.items() if "attn" in name)
    tower_layers, tower_hidden, tower_tokens, image_tokens, width = _vision(model.config)
    sites = backbone.find_sites(model)
    return ModelSizes(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        sites=sites,
        same_input=frozenset(site for site in sites if site.endswith(".up_proj")),
        product_input=frozenset(site for site in sites if site.endswith(".down_proj")),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        intermediate=text.intermediate_size,
        heads=text.num_attention_heads,
        keys=head * text.num_key_value_heads,
        attention_weights=attention // text.num_hidden_layers,
        feed_forward_weights=(sum(language.values()) - attention) // text.num_hidden_layers,
        vocabulary=text.vocab_size,
        projector_weights=sum(size for name, size in weights.items() if is_projector(name)),
        tower_weights=sum(size for name, size in weights.items() if any(part in name for part in VISION_MODULES)),
        tower_layers=tower_layers,
        tower_hidden=tower_hidden,
        tower_tokens=tower_tokens,
        image_tokens=image_tokens,
        feature_width=width,
        fixed_pictures=backbone.family == "llava",
        full=num_full(backbone, model),
        **_quantised(backbone, language, model),
    )


def _quantised(backbone: Backbone, language: Mapping[str, int], model: Any) -> dict[str, Any]:
    """What of the model is quantised, as `ModelSizes` names it."""
    if backbone.bits is None:
        return {}
    linears = {name: model.get_submodule(name) for name in language}
    shapes = {name: (linear.out_features, linear.in_features) for name, linear in linears.items()}
    return {
        "quantised": sum(language.values()),
        "quantised_bytes": quantised_bytes(shapes, backbone.bits),
        "largest_quantised": max(language.values()),
    }


def _weights(model: Any) -> Iterator[tuple[str, int]]:
    """Name and number of weights of each module that multiplies."""
    from torch import nn

    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.Conv3d)):
            yield name, module.weight.numel()


def _vision(config: Any) -> tuple[int, int, int, int, int]:
    """Layers, width and tokens of the tower; tokens in the prompt; width of the projector's input, for each token."""
    vision = config.vision_config
    if config.model_type == "llava":
        patches = (vision.image_size // vision.patch_size) ** 2
        return vision.num_hidden_layers, vision.hidden_size, patches + 1, patches, vision.hidden_size
    merge = vision.spatial_merge_size
    tokens = 1
    for side in PICTURE:
        tokens *= round(side / (vision.patch_size * merge))
    hidden = getattr(vision, "embed_dim", None) or vision.hidden_size
    return vision.depth, hidden, tokens * merge**2, tokens, hidden * merge**2
