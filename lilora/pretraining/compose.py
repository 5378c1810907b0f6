"""A stage-1 LLaVA from its parts - a language model, a CLIP tower, LLaVA's projector file - as a transformers folder.

LiLoRA and SMoLoRA start from Vicuna, CLIP ViT-L/14-336 and the projector of LLaVA's first stage, which nobody publishes
as one model. The result is what llava-hf publishes of the finished one: the same classes, names, image and pad token,
and vocabulary padded to a multiple of 64, in float16. Tensors are read and written one shard at a time; pickles are
opened with `weights_only` alone. The folder appears when it is complete.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from lilora.core.files import give_usual_modes
from lilora.core.identity import digest_of, sha256_of
from lilora.pretraining.llava_processor import IMAGE_TOKEN, load_tokenizer, save_processor
from lilora.pretraining.weights import Weights, load_pickle

#: What `compose` writes beside the model: its revision, and the SHA-256 of each file.
RECORD = "compose.json"
#: The vocabulary is padded to a multiple of this, as llava-hf's is (32,000 + 2 tokens become 32,064).
VOCABULARY_MULTIPLE = 64
#: The tower's layer whose features LLaVA-1.5 takes, without the class token ("default").
FEATURE_LAYER = -2
SHARD_BYTES = 4 * 2**30
DTYPE = torch.float16
#: Modules of the transformers model, how llava-hf's files call them, and how the part's own file does.
PARTS = (
    ("lm_head.", "language_model.lm_head.", "lm_head."),
    ("model.language_model.", "language_model.model.", "model."),
    ("model.vision_tower.", "vision_tower.vision_model.", "vision_model."),
    ("model.multi_modal_projector.linear_1.", "multi_modal_projector.linear_1.", "0."),
    ("model.multi_modal_projector.linear_2.", "multi_modal_projector.linear_2.", "2."),
)
PROJECTOR_NAMES = ("0.weight", "0.bias", "2.weight", "2.bias")


@dataclass(frozen=True)
class Composed:
    """What was made.

    Attributes:
        folder: in llava-hf's form.
        revision: names the bytes of all its files; the `revision` of a `Backbone` with this `location`.
        parameters: of the whole model.
        image_token_id, pad_token_id, vocabulary: of the new vocabulary.
        width: of the language model.
    """

    folder: Path
    revision: str
    parameters: int
    image_token_id: int
    pad_token_id: int
    vocabulary: int
    width: int


def compose(llm: Path, vision: Path, projector: Path, out: Path, shard_bytes: int = SHARD_BYTES) -> Composed:
    """Write the model of the three parts, and its processor, to the new folder `out`.

    Rows of the embedding and of the head for the new tokens are the mean of the old rows, as llava-hf's are but for a
    little noise: no text asks for the one, and pictures take the place of the other.

    Args:
        llm: a folder with a Llama's config, tokenizer and weights (safetensors, or `pytorch_model*.bin`).
        vision: a folder with a CLIP model (or its tower alone) and `preprocessor_config.json`.
        projector: LLaVA's `mm_projector.bin` of two linear layers.
        shard_bytes: bytes of a file of weights, at most (a single tensor may take more).

    Raises:
        ValueError: a part is missing, is another thing, or does not fit the others; the message names the remedy.
            Nothing is left at `out` then.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is there already: name a new folder with --out, or remove it")
    parts = _projector(projector)
    tokenizer, known = load_tokenizer(llm)
    config = _config(llm, vision, tokenizer)
    _check_projector(parts, config, projector)
    beside = out.with_name(f".{out.name}.new")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        sources = {"model.": Weights.of(llm), "vision_model.": Weights.of(vision), "": parts}
        parameters = _write_weights(config, sources, known, beside, shard_bytes)
        save_processor(tokenizer, config.vision_config.patch_size, vision, beside)
        config.save_pretrained(beside)
        revision = _write_record(beside)
        give_usual_modes(beside)
        if out.exists():
            out.rmdir()
        beside.rename(out)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    text = config.text_config
    return Composed(
        out, revision, parameters, config.image_token_id, text.pad_token_id, text.vocab_size, text.hidden_size
    )


def composed_revision(folder: Path) -> str:
    """The revision of a folder that `compose` made, from its record: no weights are opened.

    Raises:
        ValueError: it has no record.
    """
    path = folder / RECORD
    if not path.is_file():
        raise ValueError(f"{folder} has no {RECORD}: make it with `lilora compose-llava`")
    revision: str = json.loads(path.read_text(encoding="utf-8"))["revision"]
    return revision


def _projector(path: Path) -> dict[str, Tensor]:
    """The projector's tensors as "0.weight", "0.bias", "2.weight", "2.bias"."""
    if not path.is_file():
        raise ValueError(f"{path} is no file: give --projector LLaVA's mm_projector.bin")
    content = load_pickle(path)
    found = {name.rpartition("mm_projector.")[2]: value for name, value in content.items() if "mm_projector." in name}
    remedy = "take mm_projector.bin of llava-v1.5-mlp2x-336px-pretrain-vicuna-7b-v1.5 (or -13b-v1.5)"
    if not found:
        raise ValueError(f"{path} holds no tensor called mm_projector, but {sorted(content)[:3]}: {remedy}")
    if set(found) != set(PROJECTOR_NAMES):
        raise ValueError(
            f"{path} holds {sorted(found)}; LLaVA-1.5's projector is two linear layers, {sorted(PROJECTOR_NAMES)}: "
            f"{remedy}"
        )
    return found


def _check_projector(parts: Mapping[str, Tensor], config: Any, path: Path) -> None:
    first, second = (tuple(parts[f"{place}.weight"].shape) for place in (0, 2))
    seen, hidden = config.vision_config.hidden_size, config.text_config.hidden_size
    if first[1] != seen:
        raise ValueError(
            f"{path} takes features of width {first[1]}, and the tower gives {seen}: give --vision the CLIP that the "
            "projector was trained with (LLaVA-1.5: openai/clip-vit-large-patch14-336, 1024)"
        )
    if first[0] != hidden or second != (hidden, hidden):
        raise ValueError(
            f"{path} gives vectors of width {second[0]}, and the language model takes {hidden}: take the projector "
            "that was trained for this model (Vicuna 7B: 4096, 13B: 5120)"
        )


def _config(llm: Path, vision: Path, tokenizer: Any) -> Any:
    """The whole model's configuration."""
    from transformers import AutoConfig, LlavaConfig

    if not (vision / "config.json").is_file():
        raise ValueError(
            f"{vision} has no config.json: give --vision a CLIP folder (openai/clip-vit-large-patch14-336)"
        )
    text = AutoConfig.from_pretrained(str(llm))
    tower = AutoConfig.from_pretrained(str(vision))
    if text.model_type != "llama":
        raise ValueError(
            f"{llm} is a '{text.model_type}', and LLaVA-1.5's language model is a Llama: give --llm Vicuna"
        )
    tower = getattr(tower, "vision_config", tower)
    if tower.model_type != "clip_vision_model":
        raise ValueError(
            f"{vision} is a '{tower.model_type}', and LLaVA-1.5's tower is CLIP's: give --vision a CLIP folder"
        )
    rows = max(len(tokenizer), text.vocab_size)
    text.vocab_size = -(-rows // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
    text.pad_token_id = tokenizer.pad_token_id
    text.architectures, text.dtype, tower.dtype = ["LlamaForCausalLM"], "float16", "float16"
    text._name_or_path = ""  # where a part lay would change the revision
    config = LlavaConfig(
        text_config=text,
        vision_config=tower,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        image_seq_length=(tower.image_size // tower.patch_size) ** 2,
        vision_feature_layer=FEATURE_LAYER,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        tie_word_embeddings=bool(text.tie_word_embeddings),
        architectures=["LlavaForConditionalGeneration"],
        dtype="float16",
    )
    config.pad_token_id = tokenizer.pad_token_id
    return config


def _write_weights(config: Any, sources: Mapping[str, Any], known: int, folder: Path, shard_bytes: int) -> int:
    """Every tensor of the model, by llava-hf's names, in shards; the number of parameters."""
    from huggingface_hub import split_torch_state_dict_into_shards

    wanted = _wanted(config)
    names = {name: tensor for name, (tensor, _) in wanted.items()}
    split = split_torch_state_dict_into_shards(names, max_shard_size=shard_bytes)
    for file, inside in split.filename_to_tensors.items():
        tensors = {name: _tensor(name, names[name].shape, wanted[name][1], sources, known) for name in inside}
        save_file(tensors, folder / file, metadata={"format": "pt"})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": dict(sorted(split.tensor_to_filename.items()))}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    return sum(tensor.numel() for tensor in names.values())


def _wanted(config: Any) -> dict[str, tuple[Tensor, str]]:
    """Of each of llava-hf's names: the tensor without values, and the name in the part's own file."""
    from transformers import LlavaForConditionalGeneration

    with torch.device("meta"):
        model: Any = LlavaForConditionalGeneration(config)
    found = {}
    for name, parameter in model.named_parameters():
        inner, published, own = next(part for part in PARTS if name.startswith(part[0]))
        rest = name.removeprefix(inner)
        found[published + rest] = (parameter.to(DTYPE), own + rest)
    return found


def _tensor(name: str, shape: torch.Size, own: str, sources: Mapping[str, Any], known: int) -> Tensor:
    """One tensor of the model in float16, from the part that it belongs to; vocabularies with their new rows."""
    prefix = "" if name.startswith("multi_modal_projector.") else "model."
    prefix = "vision_model." if name.startswith("vision_tower.") else prefix
    value = sources[prefix][own]
    if own in ("lm_head.weight", "model.embed_tokens.weight"):
        if value.shape[1] != shape[1] or not known <= len(value) <= shape[0]:
            raise ValueError(
                f"{own} is {tuple(value.shape)}, the tokenizer has {known} tokens and the configuration asks for width "
                f"{shape[1]}: the files of --llm are not of one model; download the folder again"
            )
        whole = value.new_empty(shape)
        whole[:known] = value[:known]
        whole[known:] = value[:known].float().mean(0).to(value.dtype)
        value = whole
    if value.shape != shape:
        raise ValueError(
            f"{own} is {tuple(value.shape)}, and the folder's config.json asks for {tuple(shape)}: the weights and the "
            "configuration are not of one model; download the folder again"
        )
    value = value.to(DTYPE).contiguous()
    if not value.isfinite().all():
        raise ValueError(f"{own} holds values that float16 cannot: take the released weights, which do")
    return value


def _write_record(folder: Path) -> str:
    files = {path.name: sha256_of(path) for path in sorted(folder.iterdir())}
    revision = digest_of({"files": files})
    text = json.dumps({"revision": revision, "files": files}, indent=1)
    (folder / RECORD).write_text(text + "\n", encoding="utf-8")
    return revision
