"""Processors that a checkpoint's folder does not give whole: Qwen2-VL's without videos, LLaVA's from before 2025.

Qwen2-VL's stock class asks for a video processor as well: that needs torchvision, which is not always there, and
settings, which a folder of pictures' and texts' may lack. Ours is the stock class without it.

LLaVA's older folders do not say how many tokens a picture takes; the model's own configuration does.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import transformers
from transformers.processing_utils import ProcessorMixin
from transformers.utils import PROCESSOR_NAME

from lilora.backbones import _hub


class Qwen2VLProcessor(transformers.Qwen2VLProcessor):  # type: ignore[misc,unused-ignore]  # transformers' lazy classes are Any
    """Image processor and tokenizer; a call and the chat template work as in the stock class."""

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None) -> None:
        self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **options: Any) -> Any:
        """As the stock class, and a video processor's settings, without which the stock class loads no folder: the
        pictures', as Qwen2-VL's published folders have one file of settings for both.
        """
        written = super().save_pretrained(save_directory, push_to_hub, **options)
        path = Path(save_directory, PROCESSOR_NAME)
        settings = json.loads(path.read_text(encoding="utf-8"))
        videos = {name: value for name, value in settings["image_processor"].items() if name != "image_processor_type"}
        settings["video_processor"] = videos | {"video_processor_type": "Qwen2VLVideoProcessor"}
        path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        return written


#: Vision towers -> tokens beside the patches that they give (CLIP's class token).
TOWERS = {"clip_vision_model": 1, "siglip_vision_model": 0}
_PATCH, _STRATEGY, _OTHERS = "patch_size", "vision_feature_select_strategy", "num_additional_image_tokens"


def is_complete(processor: Any) -> bool:
    """Whether a `LlavaProcessor` says how many tokens a picture takes. None beside the patches is what old folders say
    too, which do not know the field.
    """
    return None not in (processor.patch_size, processor.vision_feature_select_strategy) and bool(
        processor.num_additional_image_tokens
    )


def complete_llava(processor: Any, config: Any) -> None:
    """Take what a `LlavaProcessor` does not say from the model's configuration, in place.

    A picture takes (height / patch) x (width / patch) tokens and those of `TOWERS`, less one where the strategy is
    "default". The model gives as many features: what the folder's two files say must agree.

    Raises:
        ValueError: the configuration does not say it either, or says otherwise; the message names the field.
    """
    vision = config.vision_config
    known = {
        _PATCH: getattr(vision, "patch_size", None),
        _STRATEGY: config.vision_feature_select_strategy,
        _OTHERS: TOWERS.get(vision.model_type),
    }
    old = processor.patch_size is None or processor.vision_feature_select_strategy is None
    for name, value in known.items():
        said = getattr(processor, name)
        absent = said is None or (name == _OTHERS and said == 0)
        if absent and value is None and (old or name != _OTHERS):
            raise ValueError(
                f"the processor has no {name}, and a '{vision.model_type}' does not say it: put {_PATCH}, {_STRATEGY} "
                f"and {_OTHERS} into processor_config.json, so that a picture's tokens can be counted"
            )
        if not absent and value is not None and said != value:
            raise ValueError(
                f"the processor's {name} is {said!r}, but the model's is {value!r}: a picture's tokens would not be as "
                "many as its features; mend processor_config.json"
            )
        if absent and value is not None:
            setattr(processor, name, value)


@cache
def load_processor(location: str, revision: str, family: str) -> Any:
    """The processor, with the image processor that works with PIL.

    transformers takes torchvision's where that is installed, and it makes other pixels, for the same digest. Of a model
    that has no other image processor, torchvision's stays (transformers warns of it).
    """
    from transformers import AutoConfig, AutoImageProcessor, AutoProcessor

    if family in ("qwen2_vl", "qwen2_5_vl"):
        processor = _hub.from_pretrained(Qwen2VLProcessor, location, revision)
    else:
        processor = _hub.from_pretrained(AutoProcessor, location, revision)
    if family == "llava" and not is_complete(processor):
        complete_llava(processor, _hub.from_pretrained(AutoConfig, location, revision))
    if getattr(processor, "image_processor", None) is not None:
        # Not above: transformers would hand the choice to the tokenizer and to a video processor as well.
        processor.image_processor = _hub.from_pretrained(AutoImageProcessor, location, revision, backend="pil")
    return processor
