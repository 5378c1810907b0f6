"""Stage 1 of a tiny backbone: the tower learns to label patches, then projector and text model learn the turns.

A dense label a patch is what makes a vision transformer from scratch work in minutes. The label head is thrown away;
what is kept answers short turns about pictures and has seen no task instruction. Everything is a function of the
config and the worker count's slices of each batch; an interrupted run goes on from its last checkpoint.
"""

from __future__ import annotations

import io
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from lilora.benchmarks._kinds import all_templates
from lilora.core.stage_run import StageRun
from lilora.pretraining.config import PretrainConfig, TinyArchitecture
from lilora.pretraining.loop import optimise
from lilora.pretraining.tiny_llava import LlavaParts
from lilora.pretraining.tiny_qwen2_vl import Qwen2VLParts

IGNORED = -100
Parts = LlavaParts | Qwen2VLParts


def parts_of(sizes: TinyArchitecture) -> Parts:
    """What is to be known of the family."""
    return Qwen2VLParts(sizes) if sizes.family == "qwen2_vl" else LlavaParts(sizes)


def _read_corpus(folder: Path) -> polars.DataFrame:
    return polars.read_parquet(folder / "train.parquet", glob=False)


def _vocabulary(parts: Parts, corpus: polars.DataFrame, inputs: Mapping[str, Path]) -> list[str]:
    """Texts that the tokenizer is trained on: the turns, every template, the tasks' training texts (words only)."""
    texts = [parts.text(user, answer) for turns in corpus["turns"].to_list() for user, answer in turns]
    texts += all_templates() * 50
    for name in sorted(inputs):
        if name.startswith("task-"):
            path = inputs[name] / "train.parquet"
            rows = polars.read_parquet(path, columns=["instruction", "answer"], glob=False)
            texts += [parts.text(question, answer) for question, answer in rows.iter_rows()]
    return texts


def _pixels(parts: Parts, corpus: polars.DataFrame, processor: Any) -> torch.Tensor:
    """(images, 3, pixels, pixels), or patches one after another; float16 to spare memory."""
    chunks = []
    for chunk in _chunks(corpus["image"].to_list(), 500):
        images = [Image.open(io.BytesIO(image["bytes"])).convert("RGB") for image in chunk]
        chunks.append(parts.pixels(processor, images).half())
    return torch.cat(chunks)


def held_out(count: int, one_in: int) -> list[int]:
    """One index in `one_in`, at a place that moves on from group to group: kinds of picture come round in cycles."""
    return [index for index in range(count) if index % one_in == index // one_in % one_in]


def _chunks(items: list[Any], size: int) -> list[list[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _batch(seed: str, step: int, batch: int, pool: int, rank: int, world_size: int) -> tuple[list[int], random.Random]:
    """This worker's share of the batch of `step`: places in the pool, and a generator of its own."""
    share = batch // world_size
    chosen = random.Random(f"{seed} {step}").choices(range(pool), k=batch)
    return chosen[rank * share : (rank + 1) * share], random.Random(f"{seed} {step} {rank}")


class TowerData:
    """Pixels (N, 3, ., .) and patch labels (N, patches)."""

    def __init__(self, pixels: torch.Tensor, labels: torch.Tensor) -> None:
        self.pixels, self.labels = pixels, labels

    def varied(self, indices: list[int], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A batch with random brightness, colour cast and noise."""
        generator = torch.Generator().manual_seed(seed)
        pixels = self.pixels[indices].float()
        count = len(indices)
        pixels = pixels * (1 + 0.15 * torch.randn(count, 1, 1, 1, generator=generator))
        pixels = pixels + 0.15 * torch.randn(count, 3, 1, 1, generator=generator)
        pixels = pixels + 0.06 * torch.randn(pixels.shape, generator=generator)
        return pixels, self.labels[indices]


@torch.no_grad()
def _all_features(parts: Parts, model: Any, pixels: torch.Tensor) -> torch.Tensor:
    # Batches of 32: the tower runs twice as fast on them as on batches of 256.
    return torch.cat([parts.features(model, part.float()).half() for part in pixels.split(32)])


def train_tower(
    parts: Parts,
    model: Any,
    data: TowerData,
    train: list[int],
    held: list[int],
    config: PretrainConfig,
    run: StageRun,
) -> dict[str, float]:
    """Train the vision tower with a throw-away linear head on patch labels; accuracy on held-out foreground patches."""
    labels = int(data.labels.max()) + 1
    head = nn.Linear(config.architecture.vision_hidden, labels)
    weight = torch.ones(labels)
    weight[0] = 0.3  # background fills most patches
    rank, world_size = run.placement.rank, run.placement.world_size

    def loss_of_step(step: int) -> torch.Tensor:
        places, rng = _batch(f"tower {config.seed}", step, config.tower_batch, len(train), rank, world_size)
        pixels, wanted = data.varied([train[place] for place in places], rng.getrandbits(62))
        logits = head(parts.features(model, pixels))
        return F.cross_entropy(logits.reshape(-1, labels), wanted.reshape(-1), weight=weight)

    parameters = [parameter for module in (*parts.tower(model), head) for parameter in module.parameters()]
    total = config.tower_steps + config.steps
    loss = optimise("tower", parameters, loss_of_step, config.tower_steps, config.tower_rate, run, 0, total)
    with torch.no_grad():
        chunks = [data.pixels[chunk].float() for chunk in _chunks(held, 32)]
        guess = torch.cat([head(parts.features(model, chunk)).argmax(-1) for chunk in chunks])
    wanted = data.labels[held]
    return {"loss": loss, "patch_accuracy": (guess == wanted)[wanted > 0].float().mean().item()}


class TurnData:
    """Tokenised turns and the frozen tower's features (N, patches, width) of their images."""

    def __init__(self, parts: Parts, corpus: polars.DataFrame, tokenizer: Any, features: torch.Tensor) -> None:
        self.parts, self.features = parts, features
        self.kinds = corpus["kind"].to_list()
        self.texts = corpus["turns"].to_list()
        memo: dict[str, list[int]] = {}

        def encode(text: str) -> list[int]:
            if text not in memo:
                memo[text] = tokenizer(text, add_special_tokens=False)["input_ids"]
            return memo[text]

        self.turns = [[parts.turn(encode, user, answer) for user, answer in turns] for turns in self.texts]

    def sequence(self, index: int, chosen: list[int]) -> tuple[list[int], list[int]]:
        """Token ids and labels of an image's `chosen` turns, the image before the first."""
        ids = list(self.parts.begin)
        labels = [IGNORED] * len(ids)
        for place, turn in enumerate(chosen):
            first, later, answer = self.turns[index][turn]
            prompt = first if place == 0 else later
            ids += prompt + answer
            labels += [IGNORED] * len(prompt) + answer
        return ids, labels

    def logits(self, model: Any, rows: list[tuple[int, list[int]]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits and wanted tokens at answer positions, and which (row, place) they stand at."""
        sequences = [self.sequence(index, chosen) for index, chosen in rows]
        longest = max(len(ids) for ids, _ in sequences)
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        labels = torch.full((len(rows), longest), IGNORED)
        for row, (row_ids, row_labels) in enumerate(sequences):
            ids[row, : len(row_ids)] = torch.tensor(row_ids)
            labels[row, : len(row_labels)] = torch.tensor(row_labels)
        language = model.model.language_model
        embedded = language.embed_tokens(ids)
        images = self.parts.project(model, self.features[[index for index, _ in rows]].float())
        embedded = embedded.masked_scatter((ids == self.parts.image_token).unsqueeze(-1), images)
        positions = self.parts.positions(model, ids)
        # No mask: with causal attention, what stands left of the padding never sees it.
        output = language(inputs_embeds=embedded, position_ids=positions, use_cache=False)
        hidden = output.last_hidden_state[:, :-1]
        wanted = labels[:, 1:]
        answer = wanted != IGNORED
        return model.lm_head(hidden[answer]), wanted[answer], answer


def train_language(
    model: Any, data: TurnData, train: list[int], held: list[int], config: PretrainConfig, run: StageRun
) -> dict[str, Any]:
    """Train projector and text model in full on the turns; the tower is frozen (its features are given)."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rank, world_size = run.placement.rank, run.placement.world_size

    def loss_of_step(step: int) -> torch.Tensor:
        places, rng = _batch(f"language {config.seed}", step, config.batch, len(train), rank, world_size)
        rows = []
        for place in places:
            turns = range(len(data.turns[train[place]]))
            rows.append((train[place], rng.sample(turns, min(config.turns, len(turns)))))
        rows.sort(key=lambda row: len(data.sequence(*row)[0]))
        losses, counts = [], []
        for part in _chunks(rows, 8):  # of like length: less padding
            logits, wanted, _ = data.logits(model, part)
            losses.append(F.cross_entropy(logits, wanted, reduction="sum"))
            counts.append(len(wanted))
        return torch.stack(losses).sum() / sum(counts)

    total = config.tower_steps + config.steps
    loss = optimise("language", parameters, loss_of_step, config.steps, config.rate, run, config.tower_steps, total)
    return {"loss": loss, "turn_accuracy": turn_accuracy(model, data, held)}


@torch.no_grad()
def turn_accuracy(model: Any, data: TurnData, held: list[int], most: int = 200) -> dict[str, float]:
    """Share of held-out turns whose every answer token is right (teacher-forced), by picture and first word asked."""
    groups: dict[str, list[tuple[int, list[int]]]] = {}
    for index in held:
        for turn, (user, _) in enumerate(data.texts[index]):
            asked = user.partition(" D. ")[2].partition(". ")[2] if user.startswith("A. ") else user
            groups.setdefault(f"{data.kinds[index]} {asked.split()[0].strip('.')}", []).append((index, [turn]))
    result = {}
    for name, rows in sorted(groups.items()):
        right = []
        for part in _chunks(rows[:most], 32):
            logits, wanted, answer = data.logits(model, part)
            hit = torch.zeros(answer.shape, dtype=torch.bool)
            hit[answer] = logits.argmax(-1) == wanted
            right.append((hit | ~answer).all(1))
        result[name] = round(100 * torch.cat(right).float().mean().item(), 1)
    return result


def pretrain(config: PretrainConfig, inputs: Mapping[str, Path], out: Path, run: StageRun) -> dict[str, Any]:
    """Write a pre-trained backbone (float16 safetensors, config, processor) and `measured.json` to `out`.

    Inputs: "alignment" (the stage-1 corpus) and "task-NAME" (their training texts' words enter the vocabulary).

    Raises:
        ValueError: the corpus labels another number of patches than the tower has.
    """
    torch.manual_seed(config.seed)
    parts = parts_of(config.architecture)
    corpus = _read_corpus(inputs["alignment"])
    tokenizer = parts.tokenizer(_vocabulary(parts, corpus, inputs))
    processor = parts.processor(tokenizer)
    model = parts.model(len(tokenizer))
    pixels = _pixels(parts, corpus, processor)
    patches = parts.patch_labels(torch.tensor(corpus["patches"].to_list(), dtype=torch.long))
    if patches.shape[1] != config.architecture.patches**2:
        raise ValueError(
            f"the corpus labels {patches.shape[1]} patches an image, the tower has {config.architecture.patches**2}: "
            "build it with AlignmentConfig(patches=..., pixels=...) of the architecture"
        )
    held = held_out(len(corpus), config.held_out)
    train = sorted(set(range(len(corpus))) - set(held))
    tower = train_tower(parts, model, TowerData(pixels, patches), train, held, config, run)
    for module in parts.tower(model):
        module.requires_grad_(False)
    features = _all_features(parts, model, pixels)
    data = TurnData(parts, corpus, tokenizer, features)
    language = train_language(model, data, train, held, config, run)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    measured = {"parameters": parameters, "vocabulary": len(tokenizer), "tower": tower, "language": language}
    if run.is_main:
        model.half().save_pretrained(out)
        processor.save_pretrained(out)
        (out / "measured.json").write_text(json.dumps(measured, indent=1, sort_keys=True))
    return measured
