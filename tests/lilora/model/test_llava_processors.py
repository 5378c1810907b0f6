"""Folders of LLaVA's whose processor does not say how many tokens a picture takes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lilora.backbones import Backbone
from lilora.model.families import num_image_tokens
from lilora.model.tokens import load_task
from tests.lilora.lab import Lab

FIELDS = ("patch_size", "vision_feature_select_strategy", "num_additional_image_tokens")


def changed(lab: Lab, without: tuple[str, ...] = (), vision: dict[str, Any] | None = None, **values: Any) -> Backbone:
    """The lab's backbone in a folder of its own, with other settings of its processor and tower."""
    folder: Path = lab.folder() / "backbone"
    shutil.copytree(lab.backbone.location, folder)
    path = folder / "processor_config.json"
    said = json.loads(path.read_text())
    kept = {name: value for name, value in said.items() if name not in without}
    path.write_text(json.dumps(kept | values))
    if vision is not None:
        path = folder / "config.json"
        said = json.loads(path.read_text())
        path.write_text(json.dumps(said | {"vision_config": said["vision_config"] | vision}))
    return replace(lab.backbone, location=str(folder))


@pytest.mark.parametrize("without", [FIELDS, FIELDS[:1], FIELDS[1:2], FIELDS[2:], FIELDS[:2]], ids="+".join)
def test_what_an_old_folder_leaves_out_is_the_models(lab: Lab, without: tuple[str, ...]) -> None:
    old = changed(lab, without)
    processor, whole = old.load_processor(), lab.backbone.load_processor()
    assert [getattr(processor, name) for name in FIELDS] == [getattr(whole, name) for name in FIELDS]
    assert num_image_tokens(processor) == num_image_tokens(whole)
    data, own = (load_task(backbone, lab.data["Colour"], "test") for backbone in (old, lab.backbone))
    assert all((one == other).all() for one, other in zip(data.prompts, own.prompts, strict=True))
    batch = data.training_batch([0])
    pixels = processor.image_processor([data.picture(data.image_of[0])], return_tensors="pt")["pixel_values"]
    given = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "pixel_values": pixels}
    with torch.no_grad():
        # transformers' own model refuses a picture's tokens that are not as many as its features.
        assert lab.model(**given).logits.isfinite().all()


@pytest.mark.parametrize(
    ("without", "vision", "values", "words"),
    [
        ((), {}, {"patch_size": 16, "num_additional_image_tokens": 0}, "patch_size is 16, but the model's is 8"),
        (FIELDS[2:], {}, {"vision_feature_select_strategy": "full"}, "'full', but the model's is 'default'"),
        (FIELDS, {"model_type": "pixtral"}, {}, "no num_additional_image_tokens, and a 'pixtral' does not say it: put"),
    ],
)
def test_what_cannot_be_known_or_does_not_agree_is_refused_with_the_remedy(
    lab: Lab, without: tuple[str, ...], vision: dict[str, Any], values: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words) as refused:
        changed(lab, without, vision, **values).load_processor()
    assert "processor_config.json" in str(refused.value)


def test_a_folder_that_says_all_is_taken_at_its_word(lab: Lab) -> None:
    backbone = changed(lab, vision={"model_type": "pixtral"})
    assert num_image_tokens(backbone.load_processor()) == num_image_tokens(lab.backbone.load_processor())
