"""FLOPs of a stage, and of answering, from closed forms.

A linear layer takes 2 x weights x tokens forward, attention 4 x layers x width x tokens^2 (Chowdhery et al. 2022, PaLM,
appendix B, which does not halve it for causal attention either). The backbone is frozen, so its backward pass is the
gradient with respect to activations alone, as much again; attention has two operands and takes twice its forward; an
adapter takes twice its forward too. Recomputing adds a forward of all layers but the last.

Not in them: what a method does beside linear layers (DoRA's norms, and with dropout its second W x; C-LoRA's sums,
LiLoRA's product of B~ and A~), and the padding of a batch's shorter rows. Qwen2.5-VL's tower, which attends within
windows in most layers, is counted as if it attended to whole pictures. `tests/lilora/costs/test_costs.py` holds them
against what torch counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lilora.backbones import is_projector
from lilora.costs.sizes import ModelSizes
from lilora.methods import Method


@dataclass(frozen=True)
class Workload:
    """The rows of a task, on average.

    Attributes:
        rows: to learn.
        prompt_tokens, answer_tokens: of text, a row.
        longest: tokens of text of the longest row, which memory must hold.
        pictures: share of the rows that have one.
    """

    rows: int
    prompt_tokens: float
    answer_tokens: float
    longest: int
    pictures: float = 1.0

    def tokens(self, sizes: ModelSizes) -> float:
        """Of a row, image tokens included."""
        return self.prompt_tokens + self.answer_tokens + self.pictures * sizes.image_tokens

    @classmethod
    def joined(cls, parts: Sequence[Workload]) -> Workload:
        """The rows of several tasks together: means over all rows, and the longest of all."""
        if len(parts) == 1:
            return parts[0]
        rows = sum(part.rows for part in parts)

        def mean(name: str) -> float:
            return sum(part.rows * float(getattr(part, name)) for part in parts) / rows

        longest = max(part.longest for part in parts)
        return cls(rows, mean("prompt_tokens"), mean("answer_tokens"), longest, mean("pictures"))


def forward_flops(sizes: ModelSizes, work: Workload, method: Method | None = None) -> dict[str, float]:
    """FLOPs of one row's forward pass by part: "tower", "projector", "text", "attention", "head", "adapters".

    The last layer's feed-forward runs at the answer's positions alone (`lilora.model.logits.at_positions`).
    """
    tokens, answer = work.tokens(sizes), work.answer_tokens
    images = work.pictures * sizes.image_tokens
    last = ((sizes.layers - 1) * tokens + answer) / sizes.layers
    tower = 2 * sizes.tower_weights * sizes.tower_tokens
    tower += 4 * sizes.tower_layers * sizes.tower_hidden * sizes.tower_tokens**2
    adapters = 0.0
    for site, width in sizes.sites.items() if method else ():
        assert method is not None
        count = method.count({site: width})
        seen = images if is_projector(site) else last
        adapters += 2 * (count.shared + count.per_task) * seen
    return {
        "tower": work.pictures * tower,
        "projector": 2 * sizes.projector_weights * images,
        "text": 2 * sizes.layers * (sizes.attention_weights * tokens + sizes.feed_forward_weights * last),
        "attention": 4 * sizes.layers * sizes.hidden * tokens**2,
        "head": 2 * sizes.vocabulary * sizes.hidden * answer,
        "adapters": adapters,
    }


def training_flops(sizes: ModelSizes, work: Workload, method: Method, recompute: bool, earlier: int = 0) -> float:
    """FLOPs of one row's forward and backward pass in a stage after `earlier` others, the tower's forward included.

    A method that compares with another model's answers (LwF) takes a further forward, of all but the tower.
    """
    parts = forward_flops(sizes, work, method)
    again = (sizes.layers - 1) / sizes.layers if recompute else 0.0
    total = parts["tower"] + 2 * (parts["projector"] + parts["head"]) + (2 + again) * parts["text"]
    total += (method.num_forwards(earlier) - 1) * (sum(parts.values()) - parts["tower"])
    return total + (3 + again) * (parts["attention"] + parts["adapters"])


def answering_flops(sizes: ModelSizes, work: Workload) -> float:
    """FLOPs of one row's answer with merged adapters: the prompt at once, then a token at a time."""
    prompt = forward_flops(sizes, replace(work, answer_tokens=0))
    tokens = work.tokens(sizes)
    weights = sizes.layers * (sizes.attention_weights + sizes.feed_forward_weights) + sizes.vocabulary * sizes.hidden
    step = 2 * weights + 4 * sizes.layers * sizes.hidden * tokens
    return sum(prompt.values()) + work.answer_tokens * step


def embedding_flops(sizes: ModelSizes, work: Workload, encoder: str, answers: bool) -> float:
    """FLOPs of embedding one row, to find its task by or to know a task by (`lilora.adapters.similarity`).

    The words' own embeddings ("input") are looked up; for the last hidden states ("hidden") the words alone go through
    the language model, and where `answers` the answer's, each by itself, with as many positions as the row has. The
    tower's part of it is `forward_flops`'s "tower", where no answer needs it anyway.
    """
    if encoder != "hidden":
        return 0.0
    parts = forward_flops(sizes, replace(work, prompt_tokens=work.tokens(sizes), answer_tokens=0, pictures=0))
    weights = sizes.attention_weights + sizes.feed_forward_weights
    # All positions pass through the last layer's feed-forward here, too.
    return (1 + answers) * (2 * sizes.layers * weights * work.tokens(sizes) + parts["attention"])
