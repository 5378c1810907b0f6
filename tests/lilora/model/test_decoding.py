"""The decoding loop says what transformers' `generate` says, on any batch of either family."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from lilora.core.stage_run import StageRun
from lilora.model.features import load_features
from lilora.model.generate import decode, generate, greedy
from lilora.model.logits import prompt_inputs
from lilora.model.tokens import load_task
from lilora.pretraining.config import TinyArchitecture
from tests.lilora.tiny import QWEN, SIZES, make_backbone, make_task


@pytest.mark.parametrize("sizes", [SIZES, QWEN, dataclasses.replace(QWEN, layers=3)], ids=["llava", "qwen2_vl", "deep"])
@pytest.mark.parametrize("rows", [(0,), (0, 3), (0, 1, 2, 5, 7), tuple(range(10))], ids=len)
def test_the_loop_gives_the_tokens_of_generate(sizes: TinyArchitecture, rows: tuple[int, ...], tmp_path: Path) -> None:
    backbone = make_backbone(tmp_path / "model", sizes)
    data = load_task(backbone, make_task(tmp_path / "task", "Caption"), "test")
    model, processor = backbone.load_model(), backbone.load_processor()
    features = load_features(model, processor, data)
    batch = data.prompt_batch(rows)
    given = prompt_inputs(model, batch, features.of(batch.images))
    with torch.inference_mode():
        free = decode(model, given, 12, -1)
        assert [len(line) for line in free] == [12] * len(rows)
        # Each token of the first row in turn is the end: rows end at different places, some at none.
        for end in dict.fromkeys([*free[0], data.end]):
            with greedy(model):
                options = {"do_sample": False, "num_beams": 1, "eos_token_id": end, "pad_token_id": data.pad}
                stock = model.generate(**given, max_new_tokens=12, **options).tolist()
            wanted = [line[: line.index(end)] if end in line else line for line in stock]
            assert decode(model, given, 12, end) == wanted


@pytest.mark.parametrize("sizes", [SIZES, QWEN], ids=["llava", "qwen2_vl"])
def test_answers_are_the_same_by_the_loop_and_by_generate(sizes: TinyArchitecture, tmp_path: Path) -> None:
    backbone = make_backbone(tmp_path / "model", sizes)
    data = load_task(backbone, make_task(tmp_path / "task", "Colour"), "test")
    model, processor = backbone.load_model(), backbone.load_processor()
    features = load_features(model, processor, data)
    for size in (1, 3, 8, 32):
        one, other = (
            generate(model, processor.tokenizer, data, features, 9, size, StageRun(tmp_path), by_row=by_row)
            for by_row in (False, True)
        )
        assert one == other
