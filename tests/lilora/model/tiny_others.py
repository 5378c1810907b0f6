"""Random models of other classes, of some 100,000 parameters: Qwen2.5-VL, and Idefics3 for the family "auto"."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import AddedToken
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)

from lilora.backbones import QWEN2_VL_SITES, Backbone
from lilora.pretraining.pretrain import parts_of
from lilora.pretraining.tiny_llava import train_tokenizer
from lilora.pretraining.tiny_qwen2_vl import END, IMAGE, PAD, VIDEO, VISION_END, VISION_START
from tests.lilora.tiny import COLOURS, QUESTIONS, QWEN, enlarge

WORDS = ["User: Assistant:", *(text for pair in QUESTIONS.values() for text in pair), *COLOURS, "please"] * 4
IDEFICS_SPECIAL = (
    "<pad>",
    "<|im_start|>",
    "<end_of_utterance>",
    "<fake_token_around_image>",
    "<image>",
    "<global-img>",
)
IDEFICS_CHAT = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}:{% else %}: {% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}{% else %}<image>{% endif %}"
    "{% endfor %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
IDEFICS_SITES = (
    r"model\.text_model\.layers\.\d+\.mlp\.(gate|up|down)_proj",
    r"model\.connector\.modality_projection\.proj",
)
MROPE = {"rope_type": "default", "type": "mrope", "mrope_section": [4, 6, 6], "rope_theta": 1e4}


def make_qwen2_5(folder: Path) -> Backbone:
    """A Qwen2.5-VL whose vision blocks attend within windows of 2 x 2 image tokens, but for the last."""
    parts = parts_of(QWEN)
    tokenizer = parts.tokenizer(WORDS)
    parts.processor(tokenizer).save_pretrained(folder)
    torch.manual_seed(0)
    vision = {
        "hidden_size": 32, "out_hidden_size": 64, "intermediate_size": 64, "depth": 2, "num_heads": 2, "patch_size": 8,
        "window_size": 32, "fullatt_block_indexes": [1],
    }  # fmt: skip
    text = {
        "vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2, "rope_parameters": MROPE, "bos_token_id": None,
        "eos_token_id": END, "pad_token_id": PAD,
    }  # fmt: skip
    config = Qwen2_5_VLConfig(
        vision_config=vision, text_config=text, image_token_id=IMAGE, video_token_id=VIDEO,
        vision_start_token_id=VISION_START, vision_end_token_id=VISION_END,
    )  # fmt: skip
    enlarge(Qwen2_5_VLForConditionalGeneration(config)).save_pretrained(folder)
    return Backbone("tiny", "random-2", QWEN2_VL_SITES, "qwen2_vl_bare", "qwen2_5_vl", str(folder))


def make_idefics3(folder: Path, sites: tuple[str, ...] = IDEFICS_SITES) -> Backbone:
    """An Idefics3, which cuts a picture into tiles; named by the family "auto" and its own chat template."""
    names = {"pad_token": "<pad>", "bos_token": "<|im_start|>", "eos_token": "<end_of_utterance>"}
    tokenizer = train_tokenizer(WORDS, 400, IDEFICS_SPECIAL, names, list(IDEFICS_SPECIAL[3:]))
    tiles = [f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)]
    tokenizer.add_tokens([AddedToken(tile, special=True) for tile in tiles], special_tokens=True)
    images = Idefics3ImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    processor = Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=IDEFICS_CHAT)
    processor.save_pretrained(folder)
    torch.manual_seed(0)
    config = Idefics3Config(
        image_token_id=processor.image_token_id,
        scale_factor=2,
        pad_token_id=0,
        vision_config={
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": 32, "patch_size": 8,
        },
        text_config={
            "model_type": "llama", "vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 96,
            "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "pad_token_id": 0,
            "bos_token_id": 1, "eos_token_id": 2,
        },
    )  # fmt: skip
    enlarge(Idefics3ForConditionalGeneration(config)).save_pretrained(folder)
    return Backbone("tiny", "random-3", sites, "chat", "auto", str(folder))
