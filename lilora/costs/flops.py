"""FLOPs of a stage, and of answering, from closed forms."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lilora.backbones import is_projector
from lilora.costs.sizes import ModelShape
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

    def tokens(self, shape: ModelShape) -> float:
        """Of a row, image tokens included."""
        return self.prompt_tokens + self.answer_tokens + self.pictures * shape.image_tokens


def forward_flops(shape: ModelShape, work: Workload, method: Method | None = None) -> dict[str, float]:
    """FLOPs of one row's forward pass by part: "tower", "projector", "text", "attention", "head", "adapters".

    The last layer's feed-forward runs at the answer's positions alone (`lilora.model.logits.at_positions`).
    """
    tokens, answer = work.tokens(shape), work.answer_tokens
    images = work.pictures * shape.image_tokens
    last = ((shape.layers - 1) * tokens + answer) / shape.layers
    tower = 2 * shape.tower_weights * shape.tower_tokens
    tower += 4 * shape.tower_layers * shape.tower_hidden * shape.tower_tokens**2
    adapters = 0.0
    for site, sizes in shape.sites.items() if method else ():
        assert method is not None
        count = method.count({site: sizes})
        seen = images if is_projector(site) else last
        adapters += 2 * (count.shared + count.per_task) * seen
    return {
        "tower": work.pictures * tower,
        "projector": 2 * shape.projector_weights * images,
        "text": 2 * shape.layers * (shape.attention_weights * tokens + shape.feed_forward_weights * last),
        "attention": 4 * shape.layers * shape.hidden * tokens**2,
        "head": 2 * shape.vocabulary * shape.hidden * answer,
        "adapters": adapters,
    }


def training_flops(shape: ModelShape, work: Workload, method: Method, recompute: bool) -> float:
    """FLOPs of one row's forward and backward pass, the tower's forward included."""
    parts = forward_flops(shape, work, method)
    again = (shape.layers - 1) / shape.layers if recompute else 0.0
    total = parts["tower"] + 2 * (parts["projector"] + parts["head"]) + (2 + again) * parts["text"]
    return total + (3 + again) * (parts["attention"] + parts["adapters"])


def answering_flops(shape: ModelShape, work: Workload) -> float:
    """FLOPs of one row's answer with merged adapters: the prompt at once, then a token at a time."""
    prompt = forward_flops(shape, replace(work, answer_tokens=0))
    tokens = work.tokens(shape)
    weights = shape.layers * (shape.attention_weights + shape.feed_forward_weights) + shape.vocabulary * shape.hidden
    step = 2 * weights + 4 * shape.layers * shape.hidden * tokens
    return sum(prompt.values()) + work.answer_tokens * step
