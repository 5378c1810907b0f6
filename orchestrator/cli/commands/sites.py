"""`lilora sites`: a model's linear layers, as patterns for `Backbone.sites`."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from rich import box
from rich.table import Table

from lilora.backbones import Backbone, Candidates, candidate_sites
from lilora.core import registry
from orchestrator.cli.console import Output
from orchestrator.errors import UserError

#: What is said of each kind of layer.
KINDS = {
    "feed_forward": "language model, feed-forward",
    "attention": "language model, attention",
    "projector": "projector",
    "other": "vision tower and others; they stay frozen",
}


def show_sites(name: str, output: Output) -> None:
    """Print the linear layers of backbone `name`, or of the model whose config.json is in the folder `name`.

    Raises:
        UserError: a folder without a config.json.
        ValueError: neither a backbone nor a folder, or sizes are to be had nowhere.
    """
    backbone = _backbone(name)
    with output.quiet():
        found = candidate_sites(backbone.meta_model())
    output.say(f"{backbone.name}: linear layers, as patterns of module names")
    output.table(_table(found))
    lines = "".join(f"    r'{pattern}',\n" for pattern in found.sites)
    output.say("LiLoRA and SMoLoRA adapt the feed-forward layers and the projector:")
    output.say(f"sites=(\n{lines})")
    if not found.projector:
        output.say("No layer's name says that it is the projector's: look among the others and add it by hand.")
    answer = {field.name: dict(getattr(found, field.name)) for field in fields(Candidates)}
    output.finish({"backbone": backbone.name, **answer, "sites": list(found.sites)})


def _backbone(name: str) -> Backbone:
    folder = Path(name)
    if not folder.is_dir():
        backbone: Backbone = registry.load("backbones", name)
        return backbone
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} has no config.json: name a folder that transformers' save_pretrained wrote")
    return Backbone(folder.resolve().name, "local", (), "chat", "auto", str(folder))


def _table(found: Candidates) -> Table:
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    grid.add_column("where")
    grid.add_column("pattern", overflow="fold")
    grid.add_column("layers", justify="right", no_wrap=True)
    for kind, said in KINDS.items():
        for pattern, count in getattr(found, kind).items():
            grid.add_row(said, pattern, f"{count:,}")
            said = ""
    return grid
