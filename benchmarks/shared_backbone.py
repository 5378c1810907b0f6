"""The most that several trials could gain by going through one frozen backbone together, instead of one after another.

k stages of different trials (rates, ranks, lambdas, seeds) that share backbone and data order could take their steps in
one process: their rows lie beside each other in one batch for the frozen weights, and each trial's adapters see its own
rows. What is saved is at most what the frozen weights' own forward and backward save by the larger batch; adapters,
losses and optimisers cost what they cost. So this measures the bare language model, without adapters, down to its
input's gradient: k times a batch of rows, against one batch of k times the rows. Both sides take turns in one process
with one thread; a round's figure is the ratio of their processor seconds, the median of rounds is printed with its
quartiles.

For real models it is reckoned. A frozen weight of b bytes is read once forward and once backward, and costs 2 FLOPs a
token each time. With n tokens a step, k trials, W weights, a GPU of R FLOPs and M bytes a second:

    apart     k * max(4 W n / R, 2 b W / M)         together    max(4 W n k / R, 2 b W / M)

so the gain is k max(n, n*) / max(k n, n*) with n* = b R / (2 M), and 1 from n = n* tokens a step on. Activations, which
each trial has of its own, are left out, in favour of going together, and launches of kernels, against it.

    python -m benchmarks.shared_backbone                     # minutes on one core
    python -m benchmarks.shared_backbone --rounds 3 --rows 4
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable

import torch

from lilora.core import registry
from lilora.costs.gpus import find_gpu

NUMBERS = (2, 4, 8)
BACKBONES = ("tiny_llava", "tiny_qwen2_vl")
#: The gain at four trials from which on it would be built.
WANTED = 1.3
#: Bytes a second of the H100's memory (NVIDIA's data sheet, SXM), and of a weight in bfloat16.
MEMORY, WEIGHT_BYTES = 3.35e12, 2
#: Tokens of a step: a row of LLaVA-1.5 with its 576 of a picture and some 100 of text, and so many rows.
ROW_TOKENS, STEP_ROWS = 676, (1, 4, 16, 64)


def step_of(model: torch.nn.Module, rows: int, tokens: int, width: int) -> Callable[[], None]:
    """Forward and backward of the frozen model down to its input, on a batch of drawn embeddings."""
    embeddings = torch.randn(rows, tokens, width).requires_grad_()

    def step() -> None:
        embeddings.grad = None
        model(inputs_embeds=embeddings, use_cache=False).last_hidden_state.sum().backward()

    return step


def seconds(run: Callable[[], None], times: int) -> float:
    began = time.process_time()
    for _ in range(times):
        run()
    return time.process_time() - began


def measured(name: str, rows: int, tokens: int, rounds: int) -> dict[str, dict[str, float]]:
    """Gain of k trials together by k: the median over rounds, and the quartiles."""
    model = registry.load("backbones", name).load_model().get_decoder()
    width = model.config.hidden_size
    alone = step_of(model, rows, tokens, width)
    together = {k: step_of(model, rows * k, tokens, width) for k in NUMBERS}
    gains: dict[int, list[float]] = {k: [] for k in NUMBERS}
    for number in range(rounds + 1):
        for k, whole in together.items():
            gain = seconds(alone, k) / seconds(whole, 1)
            # The first round warms up.
            gains[k] += [gain] if number else []
    found = {}
    for k, values in gains.items():
        low, _, high = statistics.quantiles(values, n=4)
        found[str(k)] = {"gain": statistics.median(values), "low": low, "high": high}
    return found


def reckoned(k: int, tokens: int, gpu: str = "h100") -> float:
    """The gain of k trials together with so many tokens a step each, on a GPU at its peak."""
    bound = WEIGHT_BYTES * find_gpu(gpu).teraflops * 1e12 / (2 * MEMORY)
    return k * max(tokens, bound) / max(k * tokens, bound)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=16, help="of a trial's step (default: 16)")
    parser.add_argument("--tokens", type=int, default=64, help="of a row (default: 64, about mini's)")
    parser.add_argument("--rounds", type=int, default=9, help="at least 2 (default: 9)")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found = {name: measured(name, asked.rows, asked.tokens, asked.rounds) for name in BACKBONES}
    for name, gains in found.items():
        said = ", ".join(
            f"k {k}: {own['gain']:.2f} ({own['low']:.2f} to {own['high']:.2f})" for k, own in gains.items()
        )
        print(f"{name}, measured: {said}")
    real = {rows: {k: reckoned(k, rows * ROW_TOKENS) for k in NUMBERS} for rows in STEP_ROWS}
    for rows, by_number in real.items():
        said = ", ".join(f"k {k}: {gain:.2f}" for k, gain in by_number.items())
        print(f"LLaVA-1.5-7B, {rows} row(s) of {ROW_TOKENS} tokens a step, reckoned on an H100: {said}")
    best = max(own["4"]["gain"] for own in found.values())
    reached = max(best, *(gains[4] for gains in real.values())) >= WANTED
    print(f"{WANTED} times at k = 4 is {'reached' if reached else 'not reached'}; load {os.getloadavg()[0]:.1f}")
    print(json.dumps({"measured": found, "reckoned": real, "wanted": WANTED, "reached": reached}))


if __name__ == "__main__":
    main()
