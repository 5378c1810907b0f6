"""Stage 1 of the tiny backbone: the tower learns to label patches, then projector and text model learn the turns.

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

from lilora.pretraining.config import PretrainConfig
from lilora.pretraining.loop import optimise
from lilora.pretraining.tiny import SPECIAL, build_model, build_processor, build_tokenizer
from lilora.stage_run import StageRun
from lilora.templates import all_templates

IGNORED = -100
IMAGE_TOKEN = SPECIAL.index("<image>")
END = SPECIAL.index("</s>")


def _read_corpus(folder: Path) -> polars.DataFrame:
    return polars.read_parquet(folder / "train.parquet")


def _vocabulary(corpus: polars.DataFrame, inputs: Mapping[str, Path]) -> list[str]:
    """Texts that the tokenizer is trained on: the turns, every template, the tasks' training texts (words only)."""
    texts = [f"USER: {user} ASSISTANT: {answer}" for turns in corpus["turns"].to_list() for user, answer in turns]
    texts += all_templates() * 50
    for name in sorted(inputs):
        if name.startswith("task-"):
            rows = polars.read_parquet(inputs[name] / "train.parquet", columns=["instruction", "answer"])
            texts += [f"USER: {question} ASSISTANT: {answer}" for question, answer in rows.iter_rows()]
    return texts


def _pixels(corpus: polars.DataFrame, processor: Any) -> torch.Tensor:
    """(images, 3, pixels, pixels), float16 to spare memory."""
    parts = []
    for chunk in _chunks(corpus["image"].to_list(), 500):
        images = [Image.open(io.BytesIO(image["bytes"])).convert("RGB") for image in chunk]
        parts.append(processor.image_processor(images, return_tensors="pt")["pixel_values"].half())
    return torch.cat(parts)


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
    """Pixels (N, 3, H, W) and patch labels (N, patches)."""

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


def _features(tower: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """(N, patches, width): the tower's last layer without its class token."""
    return tower(pixel_values=pixels).last_hidden_state[:, 1:]


@torch.no_grad()
def _all_features(tower: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    # Batches of 32: the tower runs twice as fast on them as on batches of 256.
    return torch.cat([_features(tower, part.float()).half() for part in pixels.split(32)])


def train_tower(
    model: Any, data: TowerData, train: list[int], held: list[int], config: PretrainConfig, run: StageRun
) -> dict[str, float]:
    """Train the vision tower with a throw-away linear head on patch labels; accuracy on held-out foreground patches."""
    tower = model.model.vision_tower
    labels = int(data.labels.max()) + 1
    head = nn.Linear(config.architecture.vision_hidden, labels)
    weight = torch.ones(labels)
    weight[0] = 0.3  # background fills most patches
    rank, world_size = run.placement.rank, run.placement.world_size

    def loss_of_step(step: int) -> torch.Tensor:
        places, rng = _batch(f"tower {config.seed}", step, config.tower_batch, len(train), rank, world_size)
        pixels, wanted = data.varied([train[place] for place in places], rng.getrandbits(62))
        logits = head(_features(tower, pixels))
        return F.cross_entropy(logits.reshape(-1, labels), wanted.reshape(-1), weight=weight)

    parameters = [*tower.parameters(), *head.parameters()]
    total = config.tower_steps + config.steps
    loss = optimise("tower", parameters, loss_of_step, config.tower_steps, config.tower_rate, run, 0, total)
    with torch.no_grad():
        guess = torch.cat([head(_features(tower, data.pixels[part].float())).argmax(-1) for part in _chunks(held, 32)])
    wanted = data.labels[held]
    return {"loss": loss, "patch_accuracy": (guess == wanted)[wanted > 0].float().mean().item()}


class TurnData:
    """Tokenised turns and the frozen tower's features (N, patches, width) of their images."""

    def __init__(self, corpus: polars.DataFrame, tokenizer: Any, features: torch.Tensor, image_tokens: int) -> None:
        def encode(text: str) -> list[int]:
            return tokenizer(text, add_special_tokens=False)["input_ids"]

        self.features = features
        self.kinds = corpus["kind"].to_list()
        self.texts = corpus["turns"].to_list()
        start, image = encode("USER: "), [IMAGE_TOKEN] * image_tokens
        memo: dict[str, list[int]] = {}

        def remembered(text: str) -> list[int]:
            if text not in memo:
                memo[text] = encode(text)
            return memo[text]

        self.turns = [
            [
                (
                    start + image + remembered(f"\n{user} ASSISTANT:"),
                    remembered(f"USER: {user} ASSISTANT:"),
                    [*remembered(f" {answer}"), END],
                )
                for user, answer in turns
            ]
            for turns in self.texts
        ]

    def sequence(self, index: int, chosen: list[int]) -> tuple[list[int], list[int]]:
        """Token ids and labels of an image's `chosen` turns, the image before the first."""
        ids, labels = [SPECIAL.index("<s>")], [IGNORED]
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
        images = model.model.multi_modal_projector(self.features[[index for index, _ in rows]].float())
        embedded = embedded.masked_scatter((ids == IMAGE_TOKEN).unsqueeze(-1), images.reshape(-1, images.shape[-1]))
        # No mask: with causal attention, what stands left of the padding never sees it.
        hidden = language(inputs_embeds=embedded, use_cache=False).last_hidden_state[:, :-1]
        wanted = labels[:, 1:]
        answer = wanted != IGNORED
        return model.lm_head(hidden[answer]), wanted[answer], answer


def train_language(
    model: Any, data: TurnData, train: list[int], held: list[int], config: PretrainConfig, run: StageRun
) -> dict[str, Any]:
    """Train projector and text model in full on the turns; the tower is frozen (its features are given)."""
    parameters = [p for name, p in model.named_parameters() if "vision_tower" not in name]
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
    """
    torch.manual_seed(config.seed)
    corpus = _read_corpus(inputs["alignment"])
    tokenizer = build_tokenizer(_vocabulary(corpus, inputs), config.architecture.vocabulary)
    processor = build_processor(tokenizer, config.architecture)
    model = build_model(config.architecture, len(tokenizer))
    pixels = _pixels(corpus, processor)
    patches = torch.tensor(corpus["patches"].to_list(), dtype=torch.long)
    held = held_out(len(corpus), config.held_out)
    train = sorted(set(range(len(corpus))) - set(held))
    tower = train_tower(model, TowerData(pixels, patches), train, held, config, run)
    model.model.vision_tower.requires_grad_(False)
    features = _all_features(model.model.vision_tower, pixels)
    data = TurnData(corpus, tokenizer, features, config.architecture.image_tokens)
    language = train_language(model, data, train, held, config, run)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    measured = {"parameters": parameters, "vocabulary": len(tokenizer), "tower": tower, "language": language}
    if run.is_main:
        model.half().save_pretrained(out)
        processor.save_pretrained(out)
        (out / "measured.json").write_text(json.dumps(measured, indent=1, sort_keys=True))
    return measured
