"""The model as it is trained: attention by the device's own kernel, and logits where answers are, nowhere else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lilora.core import registry
from lilora.model.logits import AnswerModel
from lilora.model.tokens import IGNORED, Batch

PLAIN_ATTENTION = torch.nn.functional.scaled_dot_product_attention


@pytest.mark.parametrize("name", ["tiny_llava", "tiny_qwen2_vl"])
def test_attention_is_torchs_causal_one_without_a_mask_and_the_head_sees_answers_alone(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = registry.load("backbones", name).load_model()
    masks: list[tuple[Tensor | None, bool]] = []
    heads: list[int] = []

    def attend(*parts: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False, **more: Any) -> Tensor:
        masks.append((attn_mask, is_causal))
        return PLAIN_ATTENTION(*parts, attn_mask=attn_mask, is_causal=is_causal, **more)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attend)
    model.lm_head.register_forward_pre_hook(lambda module, arguments: heads.append(len(arguments[0])))
    ids = torch.randint(10, 90, (3, 8))
    labels = ids.clone()
    labels[:, :5] = IGNORED
    labels[2, 7] = IGNORED
    none = torch.zeros_like(ids, dtype=torch.bool)
    batch = Batch(ids, torch.ones_like(ids), labels, [], [], [""] * 3, none, none)
    logits, wanted = AnswerModel(model)(batch, None)
    assert len(masks) == len(model.get_decoder().layers)
    # With a mask neither FlashAttention's kernel nor cuDNN's would be chosen.
    assert all(mask is None and causal for mask, causal in masks)
    assert heads == [8] and len(logits) == len(wanted) == 8
