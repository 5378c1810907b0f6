"""Parts of a tiny LLaVA, all of transformers' own classes: tokenizer, processor, model, and what is trained of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from lilora.pretraining.config import TinyArchitecture

Encode = Callable[[str], list[int]]
#: Token ids of a turn: its prompt where it is an image's first, its prompt later on, its answer.
Turn = tuple[list[int], list[int], list[int]]

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}USER: "
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %} ASSISTANT:"
    "{% else %} {% for part in message['content'] %}{{ part['text'] }}{% endfor %}{{ eos_token }}{% endif %}"
    "{% endfor %}"
)


def build_tokenizer(corpus: Iterable[str], vocabulary: int) -> Any:
    """LLaVA's: begin, end and unknown tokens, and the image's; see `train_tokenizer`."""
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return train_tokenizer(corpus, vocabulary, SPECIAL, names, ["<image>"])


def train_tokenizer(
    corpus: Iterable[str], vocabulary: int, special: Iterable[str], names: dict[str, str], additional: list[str]
) -> Any:
    """Byte-level BPE trained on `corpus`, digits one by one.

    Args:
        special: tokens that get the first ids, in order; `names` says what some of them are for, `additional` the rest.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(special),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, padding_side="left", additional_special_tokens=additional, **names
    )


def build_processor(tokenizer: Any, sizes: TinyArchitecture) -> Any:
    """LlavaProcessor with a PIL image processor (no torchvision) at the tower's resolution, no crop."""
    images = CLIPImageProcessorPil(
        size={"height": sizes.pixels, "width": sizes.pixels}, do_center_crop=False, resample=3
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=sizes.patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def build_model(sizes: TinyArchitecture, vocabulary: int) -> Any:
    """A randomly initialised LlavaForConditionalGeneration of these sizes."""
    heads = sizes.hidden // 32
    image_token = SPECIAL.index("<image>")
    return LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=CLIPVisionConfig(
                hidden_size=sizes.vision_hidden,
                intermediate_size=4 * sizes.vision_hidden,
                num_hidden_layers=sizes.vision_layers,
                num_attention_heads=4,
                image_size=sizes.pixels,
                patch_size=sizes.patch,
                projection_dim=sizes.vision_hidden,
            ),
            text_config=LlamaConfig(
                vocab_size=vocabulary,
                hidden_size=sizes.hidden,
                intermediate_size=sizes.intermediate,
                num_hidden_layers=sizes.layers,
                num_attention_heads=heads,
                num_key_value_heads=heads,
                max_position_embeddings=512,
                pad_token_id=0,
                bos_token_id=1,
                eos_token_id=2,
                tie_word_embeddings=False,
            ),
            image_token_index=image_token,
            image_seq_length=sizes.image_tokens,
            vision_feature_layer=-1,
            vision_feature_select_strategy="default",
        )
    )


class LlavaParts:
    """What stage 1 must know of LLaVA: its words, its pictures, its tower and its projector."""

    image_token = SPECIAL.index("<image>")
    begin = (SPECIAL.index("<s>"),)

    def __init__(self, sizes: TinyArchitecture) -> None:
        self.sizes = sizes

    def text(self, user: str, answer: str) -> str:
        """A turn as the tokenizer learns it."""
        return f"USER: {user} ASSISTANT: {answer}"

    def tokenizer(self, corpus: Iterable[str]) -> Any:
        """See `build_tokenizer`."""
        return build_tokenizer(corpus, self.sizes.vocabulary)

    def processor(self, tokenizer: Any) -> Any:
        """See `build_processor`."""
        return build_processor(tokenizer, self.sizes)

    def model(self, vocabulary: int) -> Any:
        """See `build_model`."""
        return build_model(self.sizes, vocabulary)

    def turn(self, encode: Encode, user: str, answer: str) -> Turn:
        """Token ids of a turn; `encode` gives those of a text."""
        first = encode("USER: ") + [self.image_token] * self.sizes.image_tokens + encode(f"\n{user} ASSISTANT:")
        return first, encode(f"USER: {user} ASSISTANT:"), [*encode(f" {answer}"), SPECIAL.index("</s>")]

    def pixels(self, processor: Any, images: list[Any]) -> torch.Tensor:
        """(n, 3, H, W)."""
        values: torch.Tensor = processor.image_processor(images, return_tensors="pt")["pixel_values"]
        return values

    def patch_labels(self, labels: torch.Tensor) -> torch.Tensor:
        """Labels (N, P), given row by row, in the order of the tower's patches."""
        return labels

    def tower(self, model: Any) -> list[Any]:
        """The modules of the vision tower."""
        return [model.model.vision_tower]

    def features(self, model: Any, pixels: torch.Tensor) -> torch.Tensor:
        """(n, P, D): the tower's last layer without its class token."""
        hidden: torch.Tensor = model.model.vision_tower(pixel_values=pixels).last_hidden_state
        return hidden[:, 1:]

    def project(self, model: Any, features: torch.Tensor) -> torch.Tensor:
        """The images' tokens, one after another, from features (n, P, D)."""
        tokens: torch.Tensor = model.model.multi_modal_projector(features)
        return tokens.reshape(-1, tokens.shape[-1])

    def positions(self, model: Any, ids: torch.Tensor) -> torch.Tensor | None:
        """Where tokens (N, T) stand, if not one after another."""
        return None
