"""The processor of a composed LLaVA: Vicuna's tokenizer with two new tokens, CLIP's pictures, llava-hf's template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

IMAGE_TOKEN, PAD_TOKEN = "<image>", "<pad>"
CHAT_TEMPLATE = (
    "{{ bos_token }}A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions.{% for message in messages %}"
    "{% if message['role'] == 'user' %} USER: {% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "<image>\n{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% else %} ASSISTANT: "
    "{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)


def load_tokenizer(llm: Path) -> tuple[Any, int]:
    """The language model's tokenizer with the two new tokens, and how many it had.

    Raises:
        ValueError: `llm` has no config.json, or its tokenizer cannot be loaded.
    """
    from transformers import AddedToken, AutoTokenizer

    if not (llm / "config.json").is_file():
        raise ValueError(f"{llm} has no config.json: give --llm a Vicuna folder (lmsys/vicuna-7b-v1.5)")
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(llm))
    except (OSError, ValueError, ImportError) as error:
        raise ValueError(
            f"no tokenizer can be loaded from {llm}: it needs tokenizer.json, or tokenizer.model and the package "
            f"sentencepiece (`pip install sentencepiece`); {str(error).splitlines()[0]}"
        ) from error
    known = len(tokenizer)
    tokenizer.add_tokens(AddedToken(IMAGE_TOKEN, special=True, normalized=False), special_tokens=True)
    tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
    tokenizer.padding_side = "left"
    return tokenizer, known


def save_processor(tokenizer: Any, patch: int, vision: Path, folder: Path) -> None:
    """Write to `folder` the processor of `tokenizer` and the image processor in `vision`, and how answers end.

    `patch`: side of the tower's patches, in pixels.

    Raises:
        ValueError: `vision` has no preprocessor_config.json.
    """
    from transformers import CLIPImageProcessorPil, GenerationConfig, LlavaProcessor

    try:
        images = CLIPImageProcessorPil.from_pretrained(str(vision))
    except OSError as error:
        raise ValueError(f"{vision} has no preprocessor_config.json: download the whole CLIP folder") from error
    LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)
    ids = {name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    GenerationConfig(**{f"{name}_token_id": value for name, value in ids.items()}).save_pretrained(folder)
