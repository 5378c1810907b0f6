"""Qwen2-VL's processor for pictures and text alone.

The stock class asks for a video processor as well: that needs torchvision, which is not always there, and a file of
settings, which a folder of pictures' and texts' has not. This one is the stock class without it.
"""

from __future__ import annotations

from typing import Any

import transformers
from transformers.processing_utils import ProcessorMixin


class Qwen2VLProcessor(transformers.Qwen2VLProcessor):  # type: ignore[misc,unused-ignore]  # transformers' lazy classes are Any
    """Image processor and tokenizer; a call and the chat template work as in the stock class."""

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None) -> None:
        self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)
