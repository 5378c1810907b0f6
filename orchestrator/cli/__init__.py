"""The command line `lilora`. It chooses a study and says how to run it, never what it is.

Exit codes: 0 done, 1 a step failed (or `doctor` found an error), 2 wrong usage or input, 130 interrupted. Nothing heavy
is imported before the command that needs it runs: `lilora --help` knows neither torch nor Ray nor MLflow.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from lilora.core.home import have_home
from orchestrator.cli.commands import (
    check_data,
    claims,
    compare,
    compose_llava,
    costs,
    diff,
    doctor,
    explain,
    export,
    gc,
    jobs,
    metrics,
    params,
    plan,
    report,
    run,
    show,
    sites,
    status,
    store,
    track,
    ui,
    why,
)
from orchestrator.cli.console import show_error

INTERRUPTED = 130
EXAMPLE = "\n\nExample: "
STUDIES, MACHINE = "Studies", "This machine and its store"


class Commands(TyperGroup):
    """Shows what a user can mend as one panel, without a traceback; `--debug` works at any place in the line."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put `--debug` where the group finds it."""
        if "--debug" in args:
            args = ["--debug", *(arg for arg in args if arg != "--debug")]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; turn errors into exit codes."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            raise
        except Exception as error:
            if ctx.params.get("debug") or not _is_for_users(error):
                raise
            show_error(error)
            raise typer.Exit(2) from error


def _is_for_users(error: Exception) -> bool:
    """Whether the message alone tells a user what to do: our own errors, the system's, and those of MLflow and Ray."""
    return isinstance(error, (ValueError, TypeError, OSError, ImportError)) or type(error).__module__.startswith(
        ("mlflow.", "ray.")
    )


def _add(group: typer.Typer, panel: str | None, *commands: Callable[..., None]) -> None:
    """Add commands to a group of them, in a panel of its help.

    The example that ends a command's docstring goes below its options, where it is seen last.
    """
    for command in commands:
        text, _, example = inspect.cleandoc(command.__doc__ or "").partition(EXAMPLE)
        group.command(help=text, epilog=f"Example: {example}", rich_help_panel=panel)(command)


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import PackageNotFoundError, version

        try:
            typer.echo(f"lilora {version('lilora')}")
        except PackageNotFoundError:
            typer.echo("lilora (not installed: run from its source)")
        raise typer.Exit


app = typer.Typer(
    cls=Commands,
    name="lilora",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(epilog="Example: lilora run quickstart")
def lilora(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """How much does a multimodal model forget, and at what cost in parameters?"""


_add(app, STUDIES, run.run, plan.plan, status.status, why.why, report.report, explain.explain, claims.claims)
_add(app, STUDIES, compare.compare, diff.diff)
_add(app, STUDIES, export.export, track.track, ui.ui)
_add(app, "Studies on a cluster", jobs.submit, jobs.attach, jobs.stop)
_add(app, "Data and models", show.show, check_data.check_data, sites.sites, compose_llava.compose_llava)
_add(app, "Figures and costs", metrics.metrics, params.params, costs.costs)
_add(app, MACHINE, doctor.doctor, gc.gc)
_store = typer.Typer(no_args_is_help=True, help="Look after a store: check it, copy a study out of it, list it.")
_add(_store, None, store.verify, store.copy, store.ls)
app.add_typer(_store, name="store", rich_help_panel=MACHINE)


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script."""
    # One thread a process, before anything loads a maths library: a second one loses much on a busy machine.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    have_home()
    app(args=None if arguments is None else list(arguments), prog_name="lilora")
