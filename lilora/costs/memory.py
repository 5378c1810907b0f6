"""Bytes of GPU memory that a stage, and answering, take before they are run, by what they are for; and of the store.

Weights and optimiser are as in ZeRO (Rajbhandari et al. 2020, section 3), with float32 adapters and AdamW's two
moments. Activations are counted tensor by tensor, in the manner of Korthikanti et al. 2022 (section 4) but for what
this loop keeps: a frozen linear layer keeps no input, a float32 adapter keeps a float32 copy of its own, unless it
projects as `lilora.methods._update.project` does.
`tests/lilora/costs/test_costs.py` holds them against what torch keeps. Not in them: what a method keeps beside linear
layers, but for what it names (`Method.keeps`, `Method.num_held`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lilora.backbones import is_projector
from lilora.core.limits import CHUNK, MEMO_BYTES, MERGED_SHARE
from lilora.core.stage_run import Strategy
from lilora.costs.flops import Workload
from lilora.costs.sizes import ModelSizes
from lilora.methods import Method, Schedule

#: On top of what is counted: allocator and kernels, and what the CUDA context takes.
MARGIN, CONTEXT = 0.10, 2**30
#: Parameters that ZeRO-3 keeps gathered at once, at most (DeepSpeed's `stage3_max_live_parameters`).
LIVE_PARAMETERS = 10**9
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Setting:
    """How a stage is placed; see `lilora.core.stage_run.Placement`. `micro_batch` is a number here.

    `dtype` and `products` are those of `lilora.training.Training`.
    """

    workers: int = 1
    strategy: Strategy = "ddp"
    micro_batch: int = 1
    offload: bool = False
    gradient_checkpointing: bool = False
    dtype: str = "bfloat16"
    products: str = "float32"

    @property
    def zero(self) -> int:
        """ZeRO's stage; 0 where nothing is divided."""
        return 0 if self.strategy == "ddp" or self.workers == 1 else int(self.strategy.removeprefix("zero"))

    def __str__(self) -> str:
        parts = [self.strategy if self.workers > 1 else "alone", f"micro-batch {self.micro_batch}"]
        parts += ["gradient checkpointing"] if self.gradient_checkpointing else []
        parts += ["offload"] if self.offload else []
        return ", ".join(parts)


@dataclass(frozen=True)
class Memory:
    """Bytes on one worker's GPU at the worst moment.

    Attributes:
        weights: of the frozen backbone; under ZeRO-3 this worker's share and what is gathered. Where it is quantised, a
            matrix of it made whole is among them.
        adapters: values, earlier tasks' where they act too, and what a penalty holds them to.
        gradients, optimiser: of the trainable tensors.
        activations: kept for the backward pass with the setting's checkpointing; tower and features among them.
        activations_kept, activations_recomputed: without and with checkpointing.
        logits: and their gradient.
        margin: `MARGIN` of all that, and `CONTEXT`.
        loading: a whole copy of the weights, which each worker has before ZeRO-3 divides it.
        host: bytes in the host's memory, where something is offloaded; what is summed of gradients among them.
    """

    weights: float
    adapters: float
    gradients: float
    optimiser: float
    activations: float
    activations_kept: float
    activations_recomputed: float
    logits: float
    margin: float
    loading: float
    host: float

    @property
    def total(self) -> float:
        """What the GPU must have."""
        parts = self.weights, self.adapters, self.gradients, self.optimiser, self.activations, self.logits
        return max(sum(parts) + self.margin, self.loading + CONTEXT)


@dataclass(frozen=True)
class Activations:
    """Bytes that one micro-batch keeps for the backward pass.

    Attributes:
        layer: of a decoder layer; last: of the last one, whose feed-forward runs at the answers alone.
        products: adapters' inputs that are products, kept of a layer that checkpointing computes again, and else not.
        input: of a layer, which is all that checkpointing keeps of it.
        outside: of projector and embeddings.
        layers: how many there are.
    """

    layer: float
    products: float
    last: float
    input: float
    outside: float
    layers: int

    @property
    def kept(self) -> float:
        """Without checkpointing."""
        return (self.layers - 1) * self.layer + self.last + self.outside

    @property
    def recomputed(self) -> float:
        """With checkpointing, when the backward pass has come to a layer and computed it again."""
        again = max(self.layer + self.products, self.last) if self.layers > 1 else self.last
        return (self.layers - 1) * self.input + again + self.outside


def activation_bytes(sizes: ModelSizes, work: Workload, method: Method, setting: Setting) -> Activations:
    """What a micro-batch of the longest rows keeps.

    A layer keeps, for each token, with b bytes an element: two norms' float32 inputs; q, k, v, the attention's output
    (b each) and its log-sum-exp; silu's input and output and the other factor (3 b intermediate); and for each adapter
    its input, in the dtype of its products or as `lilora.methods._update.project` keeps it, and what the method says
    that it keeps beside it (`Method.keeps`). With checkpointing a layer keeps its input.
    """
    b = BYTES[setting.dtype]
    pictures = setting.micro_batch * math.ceil(work.pictures) * sizes.image_tokens
    tokens = setting.micro_batch * work.longest + pictures
    answers = setting.micro_batch * work.answer_tokens
    by_layer: dict[str, float] = {}
    once_by_layer: dict[str, float] = {}
    products_by_layer: dict[str, float] = {}
    projector = projector_once = 0.0
    for site, (d, k) in sizes.sites.items():
        if not method.count({site: (d, k)}).trainable:
            continue
        found = method.keeps(d, k, b)
        # Where nothing is copied, a tensor that two adapters are given is kept once; in float32 nothing ever is.
        shared = (b == 4 or found.as_given) and not found.own_input and site in sizes.same_input
        own_input = 0 if shared else (b if found.as_given else BYTES[setting.products]) * k
        kept = own_input + found.a_token
        if is_projector(site):
            projector += kept
            projector_once += found.once
        else:
            layer = site.partition(".layers.")[2].partition(".")[0]
            if found.as_given and site in sizes.product_input and setting.zero != 3:
                kept -= own_input
                products_by_layer[layer] = products_by_layer.get(layer, 0.0) + own_input
            by_layer[layer] = by_layer.get(layer, 0.0) + kept
            once_by_layer[layer] = once_by_layer.get(layer, 0.0) + found.once
    attention = 4 * sizes.hidden + b * (2 * sizes.hidden + 2 * sizes.keys) + 4 * sizes.heads
    feed_forward = 4 * sizes.hidden + 3 * b * sizes.intermediate + max(by_layer.values(), default=0.0)
    weights = max(once_by_layer.values(), default=0.0)
    return Activations(
        layer=tokens * (attention + feed_forward) + weights,
        products=tokens * max(products_by_layer.values(), default=0.0),
        last=tokens * attention + answers * feed_forward + weights,
        input=tokens * b * sizes.hidden,
        outside=pictures * (projector + 2 * b * sizes.hidden) + projector_once + tokens * b * sizes.hidden,
        layers=sizes.layers,
    )


def feature_bytes(sizes: ModelSizes, work: Workload, b: int) -> float:
    """Of the pictures' features, with b bytes an element, where they are few enough to be kept; else 0."""
    features = work.rows * work.pictures * sizes.image_tokens * sizes.feature_width * b
    return features if features <= MEMO_BYTES else 0.0


def stage_memory(sizes: ModelSizes, work: Workload, method: Method, setting: Setting, earlier: int = 0) -> Memory:
    """Bytes on each worker's GPU in a stage after `earlier` others."""
    b, n, zero = BYTES[setting.dtype], setting.workers, setting.zero
    trainable = 4.0 * (method.count(sizes.sites, first=not earlier).trainable + sizes.full)
    whole = sizes.weight_bytes(b)
    divided = whole / n if zero == 3 else whole
    gathered = min(LIVE_PARAMETERS * b, whole) if zero == 3 else 0.0
    weights = gathered + (0 if zero == 3 and setting.offload else divided) + sizes.largest_quantised * b
    # AdamW's two moments; ZeRO adds a copy of the values, and divides all three.
    optimiser = 2 * trainable if zero == 0 else 3 * trainable / n
    gradients = trainable / n if zero >= 2 else trainable
    host = 0.0
    if setting.offload and zero >= 2:
        host += optimiser + gradients + (divided if zero == 3 else 0)
        optimiser = gradients = 0.0
    gradients += trainable if n > 1 else 0  # the bucket in which they are summed
    adapters = 4.0 * (method.num_held(sizes.sites, earlier) + sizes.full)
    found = activation_bytes(sizes, work, method, setting)
    kept, recomputed = found.kept, found.recomputed
    tower = CHUNK * sizes.tower_tokens * 12 * sizes.tower_hidden * b * (work.pictures > 0)
    others = tower + feature_bytes(sizes, work, b)
    logits = setting.micro_batch * work.answer_tokens * sizes.vocabulary * (2 * b + 8)
    activations = (recomputed if setting.gradient_checkpointing else kept) + others
    counted = weights + adapters + gradients + optimiser + activations + logits
    return Memory(
        weights, adapters, gradients, optimiser, activations, kept + others, recomputed + others, logits,
        MARGIN * counted + CONTEXT, whole if zero == 3 else 0.0, host,
    )  # fmt: skip


@dataclass(frozen=True)
class Answering:
    """How rows are answered: so many at once, with so many tokens each at most, by a backbone of this dtype."""

    rows: int
    new_tokens: int
    dtype: str = "bfloat16"


@dataclass(frozen=True)
class AnswerMemory:
    """Bytes on a GPU while one batch is answered.

    Attributes:
        rows: in the batch.
        weights: of the backbone.
        merged: those with the adapters in them; 0 where nothing is merged, or where the others make room for them.
        host: bytes of the host's memory where those others wait meanwhile; no part of the total.
        adapters: values, of all tasks at most.
        cache: keys and values of every token in every layer.
        prompts: what one layer makes of all prompts at once; without merging, beside it a float32 copy of what an
            adapter is given and gives.
        features: of pictures, where they are kept.
        margin: `MARGIN` of all that, and `CONTEXT`.
    """

    rows: int
    weights: float
    merged: float
    adapters: float
    cache: float
    prompts: float
    features: float
    margin: float
    host: float = 0.0

    @property
    def total(self) -> float:
        """What the GPU must have."""
        counted = self.weights + self.merged + self.adapters + self.cache + self.prompts + self.features
        return counted + self.margin


def answer_memory(
    sizes: ModelSizes, work: Workload, method: Method, answering: Answering, capacity: float, earlier: int = 0
) -> AnswerMemory:
    """Bytes while a batch of the longest rows is answered on a GPU of `capacity` bytes.

    Keys and values take 2 x layers x width x tokens; a layer makes q, k, v, the attention's output, and three times
    its feed-forward's width of each token, with b bytes an element. Features are those of as many rows as are learned.
    """
    b, rows = BYTES[answering.dtype], answering.rows
    prompt = work.longest + math.ceil(work.pictures) * sizes.image_tokens
    sites = {site: size for site, size in sizes.sites.items() if method.count({site: size}).trainable}
    weights = sizes.weight_bytes(b) + sizes.largest_quantised * b
    adapters = 4.0 * method.num_held(sizes.sites, earlier) if sites else 0.0
    cache = 2.0 * sizes.layers * sizes.keys * rows * (prompt + answering.new_tokens) * b
    token = float(b * (3 * sizes.hidden + 3 * sizes.intermediate))
    merged = host = 0.0
    if method.mergeable and sizes.mergeable:
        copies = float(b * sum(d * k for d, k in sites.values()))
        has_room = copies <= MERGED_SHARE * (capacity - CONTEXT - weights - adapters)
        merged, host = (copies, 0.0) if has_room else (0.0, copies)
    else:
        token += 4.0 * max((d + k for d, k in sites.values()), default=0)
    prompts = rows * prompt * token
    features = feature_bytes(sizes, work, b)
    counted = weights + merged + adapters + cache + prompts + features
    return AnswerMemory(rows, weights, merged, adapters, cache, prompts, features, MARGIN * counted + CONTEXT, host)


def answers_that_fit(
    sizes: ModelSizes, work: Workload, method: Method, answering: Answering, capacity: float, earlier: int = 0
) -> AnswerMemory:
    """The same for as many rows as the GPU takes of those asked for, halved until they do; one row at least."""
    while True:
        found = answer_memory(sizes, work, method, answering, capacity, earlier)
        if found.total <= capacity or answering.rows == 1:
            return found
        answering = replace(answering, rows=answering.rows // 2)


def store_bytes(sizes: ModelSizes, method: Method, num_tasks: int) -> int:
    """Bytes of adapters that a stream of tasks leaves in the store, in float32.

    The sum over stages of what each writes (`Method.num_written`, and the layers that are trained in full): what all
    tasks share is written by each of them, an earlier task's part is referenced.
    """
    earlier_of: dict[Schedule, Sequence[int]] = {
        "sequential": range(num_tasks), "independent": (0,) * num_tasks, "joint": (0,), "none": (),
    }  # fmt: skip
    return 4 * sum(method.num_written(sizes.sites, earlier) + sizes.full for earlier in earlier_of[method.schedule])
