"""A training step of each method's layers, against PEFT's LoRA of the same rank and the frozen model alone.

Decoder blocks of transformers' Llama carry adapters on their feed-forward layers; attention and norms are frozen. A
step is what the loop does with one micro-batch: forward, the method's penalty, backward down to the blocks' input,
clipping and AdamW. Each method is in its second stage, so that LiLoRA's penalty, C-LoRA's earlier module and ProgLoRA's
earlier block of the same rank are there. "peft" is SeqLoRA, whose layers are PEFT's own; "frozen" is forward and
backward of the bare blocks. "products" is a floor: beside the bare blocks' passes it has the six products of each
adapted layer that every LoRA takes (A x, B (A x), and the gradients of A, B, A x and x), on drawn matrices that lie
ready, and PEFT's optimiser; no graph, no casts, nothing of a method's own.

All sides share the frozen weights and take turns, step by step, in one process with one thread. A round's figure is the
quotient of two steps' processor seconds; the median of rounds is printed with its quartiles, and the clock's beside it.

Activations are the bytes of all tensors that autograd keeps for the backward pass, each storage once, without
what is there before it; `--dtype bfloat16` is how a GPU has them (adapters stay in float32; its times mean little on a
CPU).

    python -m benchmarks.layer                              # three shapes, minutes on one core
    python -m benchmarks.layer --shapes 256x688x16x64 --sides frozen peft lilora --rounds 5
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import LlamaConfig, LlamaModel

from lilora.adapters.adapters import Adapters
from lilora.adapters.state import State
from lilora.core import registry
from lilora.core.stage_run import Placement
from lilora.methods.proglora_static import WEIGHTS
from lilora.training import Training
from lilora.training.ddp import Worker

#: Hidden size, width of the feed-forward layers, rank, tokens.
SHAPES = ("1024x2752x64x1024", "1024x2752x64x256", "2048x5504x128x512")
#: Each side's method; the first two have none.
SIDES = {
    "frozen": "", "products": "", "peft": "seqlora", "lilora": "lilora", "moelora": "moelora", "smolora": "smolora",
    "clora": "clora", "proglora_static": "proglora_static", "proglora_dynamic": "proglora_dynamic",
}  # fmt: skip
#: At most so many times PEFT's LoRA; LiLoRA at most so many times the frozen blocks, and PEFT's activations.
WANTED = {"lilora": 0.94} | dict.fromkeys(("moelora", "smolora", "clora", "proglora_static", "proglora_dynamic"), 1.3)
WANTED_OF_FROZEN, WANTED_ACTIVATIONS = 1.15, 0.9
#: Tokens of a row.
ROW = 256


@dataclass(frozen=True)
class Shape:
    """Sizes of the blocks, and how many there are; `tokens` of a step, in rows of `ROW` at most."""

    hidden: int
    width: int
    rank: int
    tokens: int
    blocks: int
    dtype: str

    def model(self) -> Any:
        """The frozen blocks."""
        torch.manual_seed(0)
        config = LlamaConfig(
            hidden_size=self.hidden, intermediate_size=self.width, num_hidden_layers=self.blocks, vocab_size=8,
            num_attention_heads=max(1, self.hidden // 64), attn_implementation="sdpa",
        )  # fmt: skip
        return LlamaModel(config).to(getattr(torch, self.dtype)).requires_grad_(False).eval()

    def input(self) -> torch.Tensor:
        """Drawn embeddings (rows, tokens of a row, hidden), whose gradient is asked for."""
        rows = max(1, self.tokens // ROW)
        return torch.randn(rows, self.tokens // rows, self.hidden, dtype=getattr(torch, self.dtype)).requires_grad_()

    @property
    def sites(self) -> list[str]:
        """The layers with adapters."""
        names = ("gate_proj", "up_proj", "down_proj")
        return [f"layers.{block}.mlp.{name}" for block in range(self.blocks) for name in names]


def second_stage(shape: Shape, model: Any, method: Any) -> Adapters:
    """The method's adapters for a second task, after a first whose values are drawn."""
    first = method.attach(model, shape.sites, None, "first", 0)
    with torch.no_grad():
        for tensor in first.tensors.values():
            tensor.add_(torch.randn_like(tensor), alpha=0.01)
    values = {WEIGHTS: {"second": {"first": 0.5}}}
    state: State = replace(first.state_after(None, "first"), values=values)
    first.remove()
    adapters = method.attach(model, shape.sites, state, "second", 0)
    with torch.no_grad():
        for name in adapters.trainable:
            adapters.tensors[name].add_(torch.randn_like(adapters.tensors[name]), alpha=0.01)
    adapters.train()
    return adapters


def tell_rows(shape: Shape, adapters: Adapters, rows: int, tokens: int) -> None:
    """What the method's `before_forward` does in the loop, for drawn rows: before each forward."""
    layer = next(iter(adapters.layers.values()))
    if getattr(layer, "routing", None) is not None:
        mask = torch.arange(tokens).expand(rows, tokens) < tokens - 8
        layer.routing.begin(mask, [], torch.ones(rows, shape.hidden))
    for router in adapters.modules.values():
        layer.allocation.weights = router(torch.ones(rows, shape.hidden))


def products_of(shape: Shape, model: Any) -> Callable[[], None]:
    """The products of a LoRA on each of the layers with adapters, and the step of its optimiser."""
    adapters = second_stage(shape, model, registry.load("methods", "seqlora")(rank=shape.rank))
    worker = Worker(adapters, Training(), Placement())
    sizes = {(linear.out_features, linear.in_features) for linear in adapters.originals.values()}
    ready = {(d, k): (torch.randn(shape.tokens, k), torch.randn(shape.tokens, d)) for d, k in sizes}
    sums = {(d, k): (torch.zeros(shape.tokens, k), torch.zeros(shape.tokens, d)) for d, k in sizes}

    @torch.no_grad()
    def products() -> None:
        for site, linear in adapters.originals.items():
            a, b = adapters.tensors[f"{site}.A"], adapters.tensors[f"{site}.B"]
            x, of_y = ready[linear.out_features, linear.in_features]
            of_x, y = sums[linear.out_features, linear.in_features]
            low = x @ a.t()
            y.addmm_(low, b.t(), alpha=2.0)
            of_low = of_y @ b
            b.grad, a.grad = of_y.t() @ low, of_low.t() @ x
            of_x.addmm_(of_low, a)
        worker.step(1e-5)

    return products


def side(name: str, shape: Shape, shared: Any) -> tuple[Callable[[], torch.Tensor], Callable[[], None], list[Any]]:
    """The forward and penalty of a side, its whole step, and the tensors that are there before a forward."""
    # Modules of its own around the same weights.
    model = copy.deepcopy(shared, {id(parameter): parameter for parameter in shared.parameters()})
    x = shape.input()
    weight = torch.randn_like(x) / x.numel() ** 0.5

    def outputs() -> torch.Tensor:
        x.grad = None
        return (model(inputs_embeds=x, use_cache=False).last_hidden_state * weight).sum()

    if not SIDES[name]:
        products = products_of(shape, copy.deepcopy(model)) if name == "products" else lambda: None

        def bare() -> None:
            outputs().backward()
            products()

        return outputs, bare, list(model.parameters())
    known: dict[str, Any] = {"rank": shape.rank, "lora_alpha": 2.0 * shape.rank}
    if name.startswith("proglora"):
        known["recall"] = "none"  # replayed rows are more rows, and not more of a layer
    method = registry.load("methods", SIDES[name])(**known)
    adapters = second_stage(shape, model, method)
    worker = Worker(adapters, Training(), Placement())

    def loss() -> torch.Tensor:
        tell_rows(shape, adapters, *x.shape[:2])
        total, penalty = outputs(), method.penalty(adapters)
        return total if penalty is None else total + penalty

    def step() -> None:
        worker.backward(loss())
        worker.step(1e-5)

    held = getattr(adapters.regulariser, "held", {})
    there = [*model.parameters(), *model.buffers(), *(tensor for tensors in held.values() for tensor in tensors)]
    return loss, step, there


def kept_for_backward(result: torch.Tensor) -> Iterator[torch.Tensor]:
    """The tensors that the graph of `result` holds for its backward pass, some of them several times.

    Read off the graph and not by hooks, under which `lilora.methods._update` keeps more than it does without.
    """
    nodes: list[Any] = [result.grad_fn]
    seen = set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        nodes += (following for following, _ in node.next_functions)
        # A node written in Python has `saved_tensors`, one of torch's own an attribute for each.
        values = [getattr(node, name) for name in dir(node) if name.startswith("_saved_")]
        for value in (*getattr(node, "saved_tensors", ()), *values):
            yield from (item for item in (value if isinstance(value, tuple) else (value,)) if torch.is_tensor(item))


def activations(forward: Callable[[], torch.Tensor], there: Sequence[torch.Tensor]) -> int:
    """Bytes that autograd keeps for a backward pass of `forward`, each storage once, without those of `there`."""
    result = forward()
    storages = [tensor.untyped_storage() for tensor in kept_for_backward(result)]
    kept = {storage.data_ptr(): storage.nbytes() for storage in storages}
    # By storage: of a parameter a transposed view is kept, which is no parameter.
    before = {tensor.untyped_storage().data_ptr() for tensor in there}
    return sum(size for address, size in kept.items() if address not in before)


def spread(values: Sequence[float]) -> dict[str, float]:
    low, _, high = statistics.quantiles(values, n=4)
    return {"median": statistics.median(values), "low": low, "high": high}


def measured(shape: Shape, names: Sequence[str], rounds: int) -> dict[str, dict[str, Any]]:
    """Of each side: its step against PEFT's and the frozen blocks' (processor and clock), and its activations."""
    shared = shape.model()
    sides = {name: side(name, shape, shared) for name in names}
    kept = {name: activations(forward, there) for name, (forward, _, there) in sides.items()}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for number in range(rounds + 1):
        for place in range(len(names)):
            # Each round begins with another side: none is always after the same.
            name = names[(place + number) % len(names)]
            busy, clock = time.process_time(), time.perf_counter()
            sides[name][1]()
            # The first round warms up.
            if number:
                taken[name].append((time.process_time() - busy, time.perf_counter() - clock))
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        found[name] = {"seconds": statistics.median(busy for busy, _ in taken[name]), "activations": kept[name]}
        for other in ("peft", "frozen"):
            if other in names and other != name:
                pairs = list(zip(taken[name], taken[other], strict=True))
                found[name][f"of {other}"] = spread([own[0] / theirs[0] for own, theirs in pairs])
                found[name][f"clock of {other}"] = statistics.median(own[1] / theirs[1] for own, theirs in pairs)
                found[name][f"activations of {other}"] = kept[name] / kept[other]
    return found


def said(name: str, found: dict[str, Any]) -> str:
    """A line for a side."""
    parts = [f"  {name:17} {found['seconds']:7.3f} s"]
    for other in ("peft", "frozen"):
        if f"of {other}" in found:
            ratio = found[f"of {other}"]
            parts.append(
                f"{ratio['median']:.3f}x of {other} ({ratio['low']:.3f} to {ratio['high']:.3f}; "
                f"clock {found[f'clock of {other}']:.3f})"
            )
    parts.append(f"keeps {found['activations'] / 2**20:.1f} MiB")
    if "activations of peft" in found:
        parts.append(f"{found['activations of peft']:.3f}x of peft's")
    return ", ".join(parts)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--shapes", nargs="+", default=SHAPES, help="hidden x FFN x rank x tokens (default: %(default)s)"
    )
    parser.add_argument("--sides", nargs="+", choices=list(SIDES), default=list(SIDES), help="which (default: all)")
    parser.add_argument("--blocks", type=int, default=4, help="of the model (default: 4)")
    parser.add_argument("--rounds", type=int, default=15, help="steps of each side, in turn (default: 15)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the frozen weights")
    choice = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print(f"processor seconds of a step; wanted of peft: {WANTED}; LiLoRA {WANTED_OF_FROZEN} of frozen, and "
          f"{WANTED_ACTIVATIONS} of peft's activations", flush=True)  # fmt: skip
    answer: dict[str, Any] = {"blocks": choice.blocks, "rounds": choice.rounds, "dtype": choice.dtype, "shapes": {}}
    for text in choice.shapes:
        shape = Shape(*map(int, text.split("x")), choice.blocks, choice.dtype)
        print(f"hidden x FFN x rank x tokens {text}, {choice.blocks} blocks, {choice.dtype}:", flush=True)
        found = answer["shapes"][text] = measured(shape, choice.sides, choice.rounds)
        for name, figures in found.items():
            print(said(name, figures), flush=True)
    answer["load"] = os.getloadavg()[0]
    print(f"load {answer['load']:.1f}")
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
