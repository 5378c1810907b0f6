"""Qwen2-VL's processor for pictures and text alone.

The stock class asks for a video processor as well: that needs torchvision, which is not always there, and settings,
which a folder of pictures' and texts' may lack. This one is the stock class without it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import transformers
from transformers.processing_utils import ProcessorMixin
from transformers.utils import PROCESSOR_NAME


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
