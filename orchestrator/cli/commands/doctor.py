"""`lilora doctor`: the health of this machine and its store, each fault with its remedy. It changes nothing."""

from __future__ import annotations

from dataclasses import asdict

import typer
from rich.markup import escape

from orchestrator.cli.console import Output
from orchestrator.cli.options import STORE, AsJson, StoreFolder, open_store

MARKS = {"ok": "[green]ok     [/green]", "warning": "[yellow]warning[/yellow]", "error": "[red]error  [/red]"}


def doctor(store: StoreFolder = STORE, json: AsJson = False) -> None:
    """What this machine has, what is wrong with it, and the remedy.

    Nothing is changed. Exit code 1 if something is an error.

    Example: lilora doctor
    """
    from orchestrator.cli import health

    output = Output(json)
    with output.quiet():
        found = health.findings(open_store(store))
    for item in found:
        output.say(f"{MARKS[item.state]}  {item.what:13}{escape(item.detail)}")
        if item.remedy:
            output.say(f"           {escape(item.remedy)}")
    errors, warnings = (sum(item.state == state for item in found) for state in ("error", "warning"))
    output.say(f"{errors} errors, {warnings} warnings")
    output.finish({"errors": errors, "warnings": warnings, "findings": [asdict(item) for item in found]})
    raise typer.Exit(1 if errors else 0)
