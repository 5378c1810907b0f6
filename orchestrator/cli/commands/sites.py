"""`lilora sites`: a model's linear layers, as patterns for `Backbone.sites`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table

from orchestrator.cli.console import Output
from orchestrator.cli.options import AsJson
from orchestrator.errors import UserError

if TYPE_CHECKING:
    from lilora.backbones import Backbone, SitePatterns

#: What is said of each kind of layer.
KINDS = {
    "feed_forward": "language model, feed-forward",
    "attention": "language model, attention",
    "projector": "projector",
    "other": "vision tower and others; they stay frozen",
}


def sites(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A backbone of lilora, or a folder with a model's config.json.")
    ],
    json: AsJson = False,
) -> None:
    """List the linear layers of a vision-language model, and name those to adapt.

    Nothing is loaded but the configuration. Any model that transformers' AutoModelForImageTextToText loads will do.

    Example: lilora sites qwen2.5-vl-7b
    """
    from lilora.backbones import site_patterns

    output, backbone = Output(json), _backbone(model)
    with output.quiet():
        found = site_patterns(backbone.meta_model())
    output.say(f"{backbone.name}: linear layers, as patterns of module names")
    output.table(_table(found))
    lines = "".join(f"    r'{pattern}',\n" for pattern in found.sites)
    output.say("LiLoRA and SMoLoRA adapt the feed-forward layers and the projector:")
    output.say(f"sites=(\n{lines})")
    if not found.projector:
        output.say("No layer's name says that it is the projector's: look among the others and add it by hand.")
    output.finish({"backbone": backbone.name, **asdict(found), "sites": list(found.sites)})


def _backbone(name: str) -> Backbone:
    from lilora.backbones import Backbone
    from lilora.core import registry

    folder = Path(name)
    if not folder.is_dir():
        backbone: Backbone = registry.load("backbones", name)
        return backbone
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} has no config.json: name a folder that transformers' save_pretrained wrote")
    return Backbone(folder.resolve().name, "local", (), "chat", "auto", str(folder))


def _table(found: SitePatterns) -> Table:
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    grid.add_column("where")
    grid.add_column("pattern", overflow="fold")
    grid.add_column("layers", justify="right", no_wrap=True)
    for kind, said in KINDS.items():
        for pattern, count in getattr(found, kind).items():
            grid.add_row(said, pattern, f"{count:,}")
            said = ""
    return grid
