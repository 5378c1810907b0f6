"""`lilora sites`: which layers of a model adapters can sit on."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.options import AsJson


def add(app: typer.Typer) -> None:
    """Register the command."""

    @app.command(epilog="Example: lilora sites qwen2.5-vl-7b")
    def sites(
        model: Annotated[
            str, typer.Argument(metavar="MODEL", help="A backbone of lilora, or a folder with a model's config.json.")
        ],
        json: AsJson = False,
    ) -> None:
        """List the linear layers of a vision-language model, and name those to adapt.

        Nothing is loaded but the configuration. Any model that transformers' AutoModelForImageTextToText loads will do.
        """
        from orchestrator.cli.commands.sites import show_sites
        from orchestrator.cli.console import Output

        show_sites(model, Output(json))
