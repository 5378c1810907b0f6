"""`lilora compose-llava`: a stage-1 LLaVA from Vicuna, CLIP and LLaVA's projector file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from rich.markup import escape

from orchestrator.cli.console import Output

#: Where a study finds the backbone of this size, by the language model's width.
BACKBONES = {4096: "llava_1_5_7b", 5120: "llava_1_5_13b"}


def compose_llava(llm: Path, vision: Path, projector: Path, out: Path, output: Output) -> None:
    """Write the model to `out`, and say how a study names it.

    Raises:
        ValueError: see `lilora.pretraining.compose.compose`.
    """
    from lilora.pretraining.compose import compose

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
