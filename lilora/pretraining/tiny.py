"""Parts of a tiny LLaVA, all of transformers' own classes: tokenizer, processor, model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

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

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}USER: "
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %} ASSISTANT:"
    "{% else %} {% for part in message['content'] %}{{ part['text'] }}{% endfor %}{{ eos_token }}{% endif %}"
    "{% endfor %}"
)


def build_tokenizer(corpus: Iterable[str], vocabulary: int) -> Any:
    """Byte-level BPE trained on `corpus`, digits one by one."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        padding_side="left",
        additional_special_tokens=["<image>"],
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
