"""Families of models, by what they differ in: an image's place in a prompt, the tower's features, positions.

LLaVA has pictures of one size; Qwen2-VL and 2.5 take them as they are (a grid of patches each) and give image tokens a
row and a column. Of both the frozen tower's features are kept, and language model and projector are called apart. Any
other model that `AutoModelForImageTextToText` loads is called as a whole, on what its own processor makes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

#: Width and height of a picture.
Size = tuple[int, int]
#: What a processor makes of text and not of pictures.
TEXT_INPUTS = {"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"}


@dataclass(frozen=True)
class Images:
    """Pictures of some rows, as a model takes them.

    Attributes:
        inputs: what the image processor gives, named as the model wants it; no pixels where features are known.
        features: what the frozen tower hands to the projector: (n, P, D), or (sum of P, D) one picture after another.
        tokens: how many rows of the projector's input each picture has, where they follow one another; () where each
            picture has a row of its own.
    """

    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    features: Tensor | None = None
    tokens: tuple[int, ...] = ()

    def spread(self, values: Tensor) -> Tensor:
        """`values` (n, ...) of the pictures as rows of the projector's input: once for each of a picture's rows."""
        return values.repeat_interleave(torch.tensor(self.tokens, device=values.device), 0) if self.tokens else values

    def apart(self) -> list[Images]:
        """Each picture alone; features must be known."""
        features, count = self.known, len(self.tokens)
        if not count:
            return [Images({}, part) for part in features.split(1)]
        scale = len(features) // sum(self.tokens)
        parts = zip(range(count), features.split([scale * tokens for tokens in self.tokens]), strict=True)
        return [
            Images({name: values[i : i + 1] for name, values in self.inputs.items()}, part, self.tokens[i : i + 1])
            for i, part in parts
        ]

    @staticmethod
    def joined(pictures: Sequence[Images]) -> Images:
        """Pictures whose features are known, together."""
        names = pictures[0].inputs
        return Images(
            {name: torch.cat([picture.inputs[name] for picture in pictures]) for name in names},
            torch.cat([picture.known for picture in pictures]),
            tuple(tokens for picture in pictures for tokens in picture.tokens),
        )

    def moved(self, device: Any) -> Images:
        """The same on `device`, features too."""
        features = None if self.features is None else self.features.to(device)
        return replace(on_device(self, device), features=features)

    def pinned(self) -> Images:
        """The same pixels in page-locked memory."""
        return replace(self, inputs={name: values.pin_memory() for name, values in self.inputs.items()})

    @property
    def known(self) -> Tensor:
        """The features."""
        assert self.features is not None, "these pictures have not been through the tower"
        return self.features


class Llava:
    """Pictures of one size, an image token a patch.

    Attributes:
        in_parts: whether tower, projector and language model are called apart.
        by_size: whether a picture's tokens depend on its size.
        projector: the module's name.
    """

    in_parts = True
    by_size = False
    projector = "model.multi_modal_projector"

    def image_text(self, processor: Any, size: Size) -> str:
        """What takes the image token's place in a prompt."""
        return str(processor.image_token) * num_image_tokens(processor)

    def images(self, processor: Any, pictures: list[Image.Image]) -> Images:
        """Pixels (n, 3, H, W)."""
        return Images({"pixel_values": processor.image_processor(pictures, return_tensors="pt")["pixel_values"]})

    @torch.no_grad()
    def with_features(self, model: Any, images: Images) -> Images:
        """The same pictures through the tower: (n, P, D), what the model itself hands to its projector."""
        features = self._before_projector(model, {"pixel_values": images.inputs["pixel_values"].to(model.dtype)})
        return Images({}, features)

    def _before_projector(self, model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
        found: list[Tensor] = []

        def before(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            found.append(arguments[0])

        hook = model.get_submodule(self.projector).register_forward_pre_hook(before)
        try:
            model.get_image_features(**inputs)
        finally:
            hook.remove()
        return found[0]

    def project(self, model: Any, images: Images) -> Tensor:
        """The image tokens (sum of tokens, H), one picture after another."""
        tokens: Tensor = model.get_submodule(self.projector)(images.known)
        return tokens.reshape(-1, tokens.shape[-1])

    def positions(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor | None, images: Images | None
    ) -> dict[str, Tensor]:
        """Where tokens stand, as the language model wants to be told; {}: one after another."""
        return {}

    def means(self, images: Images, dtype: torch.dtype) -> Tensor:
        """Mean over each picture's patches of its features (n, D), in `dtype`."""
        return images.known.to(dtype).mean(1)

    def width(self, config: Any) -> int:
        """D: width of what the tower hands to the projector."""
        layers = config.vision_feature_layer
        return int(config.vision_config.hidden_size) * (len(layers) if isinstance(layers, (list, tuple)) else 1)


class Qwen2VL(Llava):
    """Pictures as grids of patches, four patches an image token, which stand in rows and columns (M-RoPE).

    The projector is the merger: a norm and two linears over blocks of 2 x 2 patches.
    """

    by_size = True
    projector = "model.visual.merger"

    def image_text(self, processor: Any, size: Size) -> str:
        """An image token for each block of patches that a picture of this size has."""
        images = processor.image_processor
        patches = images.get_number_of_image_patches(size[1], size[0], {})
        return str(processor.image_token) * (patches // images.merge_size**2)

    def images(self, processor: Any, pictures: list[Image.Image]) -> Images:
        """Patches of all pictures (sum of P, pixels of a patch), and their grids (n, 3)."""
        found = processor.image_processor(pictures, return_tensors="pt")
        inputs = {name: found[name] for name in ("pixel_values", "image_grid_thw")}
        blocks = found["image_grid_thw"].prod(-1) // processor.image_processor.merge_size**2
        return Images(inputs, None, tuple(blocks.tolist()))

    @torch.no_grad()
    def with_features(self, model: Any, images: Images) -> Images:
        """What the merger is given (sum of P, D), pictures and patches in their order."""
        grids = images.inputs["image_grid_thw"]
        pixels = images.inputs["pixel_values"].to(model.dtype)
        features = self._before_projector(model, {"pixel_values": pixels, "image_grid_thw": grids})
        visual = model.model.visual
        if hasattr(visual, "window_size"):  # Qwen2.5-VL sorts patches by windows and puts the merged ones back in order
            from transformers.vision_utils import get_vision_window_index

            order, _ = get_vision_window_index(grids, visual.spatial_merge_size, visual.window_size, visual.patch_size)
            blocks = features.view(len(order), -1, features.shape[-1])
            features = blocks[order.to(features.device).argsort()].reshape(features.shape)
        return Images({"image_grid_thw": grids}, features, images.tokens)

    def positions(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor | None, images: Images | None
    ) -> dict[str, Tensor]:
        """Frame, row and column (3, N, T)."""
        kinds = (input_ids == model.config.image_token_id).int()
        grids = None if images is None else images.inputs["image_grid_thw"]
        positions, _ = model.model.get_rope_index(
            input_ids, mm_token_type_ids=kinds, image_grid_thw=grids, attention_mask=attention_mask
        )
        return {"position_ids": positions}

    def means(self, images: Images, dtype: torch.dtype) -> Tensor:
        """Mean over each picture's patches of its features (n, D), in `dtype`."""
        return torch.stack([picture.known.to(dtype).mean(0) for picture in images.apart()])

    def width(self, config: Any) -> int:
        """D: width of what the tower hands to the merger."""
        vision = config.vision_config
        return int(getattr(vision, "embed_dim", None) or vision.hidden_size)


class Auto:
    """Any other model: pictures and text go through its own processor, and it is called as a whole.

    Features are not kept, and methods that read them, or go by picture, do not run on it.
    """

    in_parts = False
    by_size = True

    def image_text(self, processor: Any, size: Size) -> str:
        """What the processor itself puts in the image token's place for a picture of this size."""
        return _expansion(processor, size)

    def images(self, processor: Any, pictures: list[Image.Image]) -> Images:
        """All that the processor makes of the pictures."""
        texts = [processor.image_token] * len(pictures)
        found = processor(images=[[picture] for picture in pictures], text=texts, padding=True, return_tensors="pt")
        return Images({name: values for name, values in found.items() if name not in TEXT_INPUTS})

    def inputs(self, model: Any, input_ids: Tensor, attention_mask: Tensor, images: Images | None) -> dict[str, Any]:
        """What a forward, or `generate`, is called with.

        Raises:
            ValueError: the model's prompt sees what follows it, so that an answer in training would be seen by it.
        """
        model_class: Any = type(model)
        known = _parameters(model_class)
        if "token_type_ids" in known or model.config.is_encoder_decoder:
            raise ValueError(
                f"{type(model).__name__} is no causal decoder over prompt and answer, as the family 'auto' must be: "
                "take a model like LLaVA, Qwen2-VL, Idefics3 or InternVL"
            )
        given: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask}
        if "mm_token_type_ids" in known:
            given["mm_token_type_ids"] = (input_ids == model.config.image_token_id).int()
        for name, values in {} if images is None else images.inputs.items():
            given[name] = values.to(model.dtype) if values.is_floating_point() else values
        return given

    def with_features(self, model: Any, images: Images) -> Images:
        """Refused.

        Raises:
            ValueError: always; the message says which methods run.
        """
        raise ValueError(
            f"the vision features of {type(model).__name__} are not read apart from the whole model: choose a method "
            "that does not ask for them, as those do that route rows or compare tasks by their pictures"
        )

    def means(self, images: Images, dtype: torch.dtype) -> Tensor:
        """Not reached: `with_features` comes before."""
        raise NotImplementedError

    def width(self, config: Any) -> int:
        """The vision model's width."""
        return int(config.vision_config.hidden_size)


Family = Llava | Auto
FAMILIES: dict[str, Family] = {"llava": Llava(), "qwen2_vl": Qwen2VL(), "qwen2_5_vl": Qwen2VL(), "auto": Auto()}


def family_of(model: Any) -> Family:
    """How to talk to a loaded model."""
    return FAMILIES.get(model.config.model_type, FAMILIES["auto"])


def on_device(images: Images, device: Any, non_blocking: bool = False) -> Images:
    """The same pictures on `device`; `non_blocking` as of `Tensor.to`."""
    return replace(
        images, inputs={name: values.to(device, non_blocking=non_blocking) for name, values in images.inputs.items()}
    )


def num_image_tokens(processor: Any) -> int:
    """Tokens a picture takes in the prompt: what `LlavaProcessor` puts in place of its image token."""
    size = processor.image_processor.crop_size if processor.image_processor.do_center_crop else None
    size = size or processor.image_processor.size
    height, width = size["height"], size["width"]
    tokens = (height // processor.patch_size) * (width // processor.patch_size)
    tokens += processor.num_additional_image_tokens
    return tokens - 1 if processor.vision_feature_select_strategy == "default" else tokens


@lru_cache(maxsize=4096)
def _expansion(processor: Any, size: Size) -> str:
    """How many image tokens, and what between them, follows from a picture's size: a blank one of that size says it."""
    found = processor(images=[[Image.new("RGB", size)]], text=[processor.image_token], add_special_tokens=False)
    text: str = processor.tokenizer.decode(found["input_ids"][0], skip_special_tokens=False)
    return text


@lru_cache(maxsize=16)
def _parameters(model_class: type[Any]) -> frozenset[str]:
    import inspect

    return frozenset(inspect.signature(model_class.forward).parameters)
