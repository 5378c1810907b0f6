"""LLaVA's three parts in the forms in which they are published, a few thousand parameters each."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

HIDDEN, SEEN, PIXELS, PATCH = 64, 32, 16, 8
CORPUS = ["USER: What colour is it? ASSISTANT: red", "a blue square on the left"] * 4


def make_llm(folder: Path, sharded: bool = False, pickled: bool = False) -> Path:
    """A Llama in float16 with a tokenizer that knows no `<image>`: one or several safetensors, or pytorch_model.bin."""
    tokenizer = _tokenizer()
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=False,
    )
    model = _lively(LlamaForCausalLM(config)).half()
    tokenizer.save_pretrained(folder)
    if pickled:
        config.save_pretrained(folder)
        torch.save(
            {**model.state_dict(), "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)},
            folder / "pytorch_model.bin",
        )
    else:
        model.save_pretrained(folder, max_shard_size="100KB" if sharded else "1GB")
    return folder


def make_clip(folder: Path, width: int = SEEN) -> Path:
    """A whole CLIP, text tower and all, as pytorch_model.bin, with its image processor."""
    tower = {"hidden_size": width, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={
            "vocab_size": 40,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
        },
        vision_config={**tower, "image_size": PIXELS, "patch_size": PATCH, "projection_dim": 16},
        projection_dim=16,
    )
    torch.manual_seed(2)
    model = _lively(CLIPModel(config)).half()
    config.save_pretrained(folder)
    # The published file's names, whatever this version of transformers saves.
    assert "vision_model.encoder.layers.0.mlp.fc1.weight" in model.state_dict()
    torch.save(dict(model.state_dict()), folder / "pytorch_model.bin")
    size = {"height": PIXELS, "width": PIXELS}
    CLIPImageProcessorPil(size={"shortest_edge": PIXELS}, crop_size=size).save_pretrained(folder)
    return folder


def make_projector(path: Path, seen: int = SEEN, hidden: int = HIDDEN) -> Path:
    """LLaVA's `mm_projector.bin`."""
    torch.manual_seed(3)
    shapes = {"0.weight": (hidden, seen), "0.bias": (hidden,), "2.weight": (hidden, hidden), "2.bias": (hidden,)}
    tensors = {f"model.mm_projector.{name}": torch.randn(shape).mul(0.3).half() for name, shape in shapes.items()}
    torch.save(tensors, path)
    return path


def _lively(model: torch.nn.Module) -> torch.nn.Module:
    """Larger weights: a fresh model's logits hardly depend on its input."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
    return model


def _tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with Vicuna's special tokens, and no `<image>`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<unk>"
    )
