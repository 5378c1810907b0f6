"""Parts of a tiny Qwen2-VL, of transformers' own classes: what `lilora.pretraining.tiny_llava` is for LLaVA."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLImageProcessorPil

from lilora.backbones._processor import Qwen2VLProcessor
from lilora.pretraining.config import MERGED, TinyArchitecture
from lilora.pretraining.tiny_llava import Encode, Turn, train_tokenizer

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
PAD, START, END, VISION_START, VISION_END, IMAGE, VIDEO = range(len(SPECIAL))
#: Qwen2-VL's, without the system message.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
#: Sides of the merger's blocks, and frames that a patch covers (an image is shown twice).
MERGE, FRAMES = 2, 2


def build_tokenizer(corpus: Iterable[str], vocabulary: int) -> Any:
    """Qwen2-VL's special tokens and no begin token; a turn ends where the end token stands."""
    names = {"pad_token": SPECIAL[PAD], "eos_token": SPECIAL[END]}
    additional = [token for token in SPECIAL if token not in names.values()]
    return train_tokenizer(corpus, vocabulary, SPECIAL, names, additional)


def build_processor(tokenizer: Any, sizes: TinyArchitecture) -> Any:
    """Qwen2-VL's processor; pictures keep their shape and have at most pixels^2 pixels, at least a quarter of that."""
    images = Qwen2VLImageProcessorPil(
        patch_size=sizes.patch,
        merge_size=MERGE,
        temporal_patch_size=FRAMES,
        size={"shortest_edge": sizes.pixels**2 // 4, "longest_edge": sizes.pixels**2},
    )
    return Qwen2VLProcessor(images, tokenizer, chat_template=CHAT_TEMPLATE)


def build_model(sizes: TinyArchitecture, vocabulary: int) -> Any:
    """A randomly initialised Qwen2VLForConditionalGeneration of these sizes."""
    heads = sizes.hidden // 32
    return Qwen2VLForConditionalGeneration(
        Qwen2VLConfig(
            vision_config={
                "embed_dim": sizes.vision_hidden,
                "depth": sizes.vision_layers,
                "num_heads": 4,
                "mlp_ratio": 4,
                "hidden_size": sizes.hidden,
                "patch_size": sizes.patch,
                "spatial_merge_size": MERGE,
                "temporal_patch_size": FRAMES,
            },
            text_config={
                "vocab_size": vocabulary,
                "hidden_size": sizes.hidden,
                "intermediate_size": sizes.intermediate,
                "num_hidden_layers": sizes.layers,
                "num_attention_heads": heads,
                "num_key_value_heads": heads,
                "max_position_embeddings": 512,
                "rope_parameters": {
                    "rope_type": "default",
                    "type": "mrope",
                    "mrope_section": [4, 6, 6],
                    "rope_theta": 1e4,
                },
                "bos_token_id": None,
                "eos_token_id": END,
                "pad_token_id": PAD,
            },
            image_token_id=IMAGE,
            video_token_id=VIDEO,
            vision_start_token_id=VISION_START,
            vision_end_token_id=VISION_END,
            tie_word_embeddings=False,
        )
    )


class Qwen2VLParts:
    """What stage 1 must know of Qwen2-VL; see `lilora.pretraining.tiny_llava.LlavaParts`."""

    image_token = IMAGE
    begin: tuple[int, ...] = ()

    def __init__(self, sizes: TinyArchitecture) -> None:
        self.sizes = sizes

    def text(self, user: str, answer: str) -> str:
        """A turn as the tokenizer learns it."""
        return f"user\n{user}\nassistant\n{answer}"

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
        asked = f"{user}<|im_end|>\n<|im_start|>assistant\n"
        image = [VISION_START, *[IMAGE] * self.sizes.image_tokens, VISION_END]
        first = encode("<|im_start|>user\n") + image + encode(asked)
        return first, encode(f"\n<|im_start|>user\n{asked}"), [*encode(answer), END]

    def pixels(self, processor: Any, images: list[Any]) -> torch.Tensor:
        """(n, 3, P, patch^2): one of the two equal frames that the image processor gives."""
        patch = self.sizes.patch**2
        values = processor.image_processor(images, return_tensors="pt")["pixel_values"]
        frames: torch.Tensor = values.view(len(images), -1, 3, FRAMES, patch)
        return frames[:, :, :, 0].transpose(1, 2)

    def patch_labels(self, labels: torch.Tensor) -> torch.Tensor:
        """Labels (N, P), given row by row, in the order of the tower's patches: merged blocks one after another."""
        blocks = self.sizes.patches // MERGE
        return labels.view(-1, blocks, MERGE, blocks, MERGE).transpose(2, 3).reshape(labels.shape)

    def tower(self, model: Any) -> list[Any]:
        """The modules of the vision tower."""
        return [model.model.visual.patch_embed, model.model.visual.blocks]

    def features(self, model: Any, pixels: torch.Tensor) -> torch.Tensor:
        """(n, P, D): the tower's last layer, before the merger."""
        frames = pixels.transpose(1, 2).unsqueeze(3).expand(-1, -1, -1, FRAMES, -1)
        grids = torch.tensor([[1, self.sizes.patches, self.sizes.patches]]).expand(len(pixels), 3)
        hidden: torch.Tensor = model.model.visual(frames.reshape(-1, 3 * FRAMES * self.sizes.patch**2), grids)[0]
        return hidden.view(len(pixels), -1, hidden.shape[-1])

    def project(self, model: Any, features: torch.Tensor) -> torch.Tensor:
        """The images' tokens, one after another, from features (n, P, D)."""
        tokens: torch.Tensor = model.model.visual.merger(features.reshape(-1, features.shape[-1]))
        return tokens

    def positions(self, model: Any, ids: torch.Tensor) -> torch.Tensor:
        """(3, N, T): frame, row and column; the image stands at the same place in every row."""
        grid = torch.tensor([[1, self.sizes.patches, self.sizes.patches]])
        positions, _ = model.model.get_rope_index(ids[:1], (ids[:1] == IMAGE).int(), image_grid_thw=grid)
        return positions.expand(3, len(ids), -1)


assert MERGED == MERGE**2
