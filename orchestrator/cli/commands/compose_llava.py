"""`lilora compose-llava`: a stage-1 LLaVA from Vicuna, CLIP and LLaVA's projector file."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from orchestrator.cli.console import Output
from orchestrator.cli.options import AsJson

#: Where a study finds the backbone of this size, by the language model's width.
BACKBONES = {4096: "llava_1_5_7b", 5120: "llava_1_5_13b"}


def compose_llava(
    llm: Annotated[Path, typer.Option(metavar="DIR", help="Vicuna: config, tokenizer and weights.")],
    vision: Annotated[Path, typer.Option(metavar="DIR", help="CLIP, with preprocessor_config.json.")],
    projector: Annotated[Path, typer.Option(metavar="FILE", help="LLaVA's mm_projector.bin of stage 1.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the model; must be new or empty.")],
    json: AsJson = False,
) -> None:
    """Build LLaVA's first-stage model from its parts, in transformers' form.

    Example: lilora compose-llava --llm vicuna-7b-v1.5 --vision clip-vit-large-patch14-336 --projector
    llava-v1.5-mlp2x-336px-pretrain-vicuna-7b-v1.5/mm_projector.bin --out llava-7b-stage1
    """
    from lilora.pretraining.compose import compose

    output = Output(json)
    with output.quiet():
        made = compose(llm, vision, projector, out)
    output.say(
        f"{escape(str(out))}: {made.parameters:,} parameters in float16, vocabulary {made.vocabulary:,} "
        f"(<image> is {made.image_token_id}, <pad> is {made.pad_token_id})"
    )
    output.say(f"revision {made.revision}")
    module = BACKBONES.get(made.width, "llava_1_5_7b")
    output.say(
        f"in a study: from lilora.backbones.{module} import BACKBONE\n"
        f'replace(BACKBONE, revision="{made.revision}", location="{escape(str(out.resolve()))}")'
    )
    output.finish(dataclasses.asdict(made) | {"folder": str(out.resolve())})
