"""The command line `lilora`. It chooses a study and says how to run it, never what it is.

Exit codes: 0 done, 1 a step failed (or `doctor` found an error), 2 wrong usage or input, 130 interrupted. Nothing heavy
is imported before the command that needs it runs: `lilora --help` knows neither torch nor Ray nor MLflow.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from orchestrator.cli import data as cli_data
from orchestrator.cli import jobs as cli_jobs
from orchestrator.cli import models as cli_models
from orchestrator.cli import sites as cli_sites
from orchestrator.cli import store as cli_store
from orchestrator.cli.console import Output, show_error
from orchestrator.cli.options import STORE, AsJson, Real, StoreFolder, StudyName, TrackingUri, chosen, open_store

INTERRUPTED = 130


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


app = typer.Typer(
    cls=Commands,
    name="lilora",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import PackageNotFoundError, version

        try:
            typer.echo(f"lilora {version('lilora')}")
        except PackageNotFoundError:
            typer.echo("lilora (not installed: run from its source)")
        raise typer.Exit


@app.callback(epilog="Example: lilora run quickstart")
def lilora(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """How much does a multimodal model forget, and at what cost in parameters?"""


@app.command(epilog="Example: lilora run quickstart --slots 2")
def run(
    study: StudyName,
    store: StoreFolder = STORE,
    address: Annotated[
        str | None, typer.Option(metavar="ADDR", help="A running Ray cluster; else a local one is started.")
    ] = None,
    slots: Annotated[int | None, typer.Option(min=1, help="Steps at once; by default one a core.")] = None,
    scale_to: Annotated[
        str | None,
        typer.Option(metavar="NxCORES[+GPUS]", help="What a cluster that grows on demand may grow to, as in 8x16+4."),
    ] = None,
    real: Real = False,
    tracking: TrackingUri = None,
    json: AsJson = False,
) -> None:
    """Run what is missing of a study, and print its table."""
    from orchestrator.cli.commands import run as running
    from orchestrator.cluster.demand import Scale

    scale = Scale.parse(scale_to) if scale_to else None
    raise typer.Exit(running.run(chosen(study, real), open_store(store), Output(json), slots, address, tracking, scale))


@app.command(epilog="Example: lilora plan quickstart --json, or lilora plan table1_single --real")
def plan(study: StudyName, real: Real = False, store: StoreFolder = STORE, json: AsJson = False) -> None:
    """How many steps a study takes, and how many are done."""
    from orchestrator.cli.commands import plans

    plans.show_plan(chosen(study, real), open_store(store), Output(json))


@app.command(epilog="Example: lilora status quickstart")
def status(study: StudyName, real: Real = False, store: StoreFolder = STORE, json: AsJson = False) -> None:
    """How far a study is: what runs, what failed, the table so far."""
    from orchestrator.cli.commands import plans

    plans.show_status(chosen(study, real), open_store(store), Output(json))


@app.command(
    epilog="Example: lilora why --study quickstart 'train seqlora 2/6 TextVQA, seed 0' "
    "'train lilora 2/6 TextVQA, seed 0'"
)
def why(
    step: Annotated[str, typer.Argument(metavar="STEP", help="Its label, or the first digits of its digest.")],
    other: Annotated[str | None, typer.Argument(metavar="[STEP]", help="Another step, to see what differs.")] = None,
    study: Annotated[str | None, typer.Option(metavar="STUDY", help="Look in this study only.")] = None,
    store: StoreFolder = STORE,
    json: AsJson = False,
) -> None:
    """What a step's digest is made of; with two steps, what differs."""
    from orchestrator.cli.commands.why import show_why

    show_why(step, other, study, open_store(store), Output(json))


@app.command(epilog="Example: lilora report quickstart --out report")
def report(
    study: StudyName,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for it; by default in the store.")] = None,
    real: Real = False,
    store: StoreFolder = STORE,
    json: AsJson = False,
) -> None:
    """Write a study's report: one HTML file, and CSV."""
    from orchestrator.cli.commands import views

    views.report(chosen(study, real), open_store(store), out, Output(json))


@app.command(epilog="Example: lilora export quickstart --method lilora --task GQA --out gqa_adapter")
def export(
    study: StudyName,
    method: Annotated[str, typer.Option(metavar="NAME", help="The trial: its method, or its name in the table.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for it; must be new or empty.")],
    after: Annotated[str | None, typer.Option(metavar="TASK", help="After which task; by default the last.")] = None,
    task: Annotated[
        str | None, typer.Option(metavar="TASK", help="To answer which; by default the one of --after.")
    ] = None,
    merged: Annotated[
        bool, typer.Option("--merged", help="The whole model, with the adapters in its weights.")
    ] = False,
    seed: Annotated[int | None, typer.Option(help="Of the trial, where there are several.")] = None,
    store: StoreFolder = STORE,
    json: AsJson = False,
) -> None:
    """Write a stage's adapters as a stock PEFT LoRA folder, or merged into the model."""
    from orchestrator.cli.commands.export import export as write

    write(study, method, after, task, out, merged, seed, open_store(store), Output(json))


@app.command(epilog="Example: lilora metrics experiments/reference/proglora_table6_matrix_moelora.csv --json")
def metrics(
    matrix: Annotated[Path, typer.Argument(metavar="MATRIX.csv", help="Header 'after,TASK1,...'; a row a stage.")],
    isolated: Annotated[
        Path | None, typer.Option(metavar="ROW.csv", help="Each task's score when trained alone, for FWT.")
    ] = None,
    json: AsJson = False,
) -> None:
    """AP, MAP, BWT, FWT and forgetting of any accuracy matrix, from any system."""
    from orchestrator.cli.commands.metrics import show_metrics

    show_metrics(matrix, isolated, Output(json))


@app.command(
    epilog="Example: lilora params --backbone llava-1.5-7b --method lilora --rank 128 --task-rank 64 --tasks 6"
)
def params(
    backbone: Annotated[str, typer.Option(metavar="NAME", help="A file of lilora/backbones; '-' and '.' may be '_'.")],
    method: Annotated[str, typer.Option(metavar="NAME", help="A file of lilora/methods.")],
    rank: Annotated[int | None, typer.Option(metavar="R", min=1, help="r; by default the method's.")] = None,
    task_rank: Annotated[
        int | None, typer.Option(metavar="S", min=1, help="r~, below r; by default the method's, r // 2.")
    ] = None,
    tasks: Annotated[int, typer.Option(metavar="N", min=1, help="Tasks learned, for the total.")] = 6,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Another field of the method, as --set decompose_b=false."),
    ] = None,
    json: AsJson = False,
) -> None:
    """What a method trains and stores on a backbone: parameters and MiB, counted without weights."""
    from orchestrator.cli.commands.params import show_params

    show_params(backbone, method, rank, task_rank, tasks, set_ or [], Output(json))


@app.command(epilog="Example: lilora track quickstart --tracking http://127.0.0.1:5000")
def track(study: StudyName, store: StoreFolder = STORE, tracking: TrackingUri = None, json: AsJson = False) -> None:
    """Rebuild a study's MLflow runs from the store."""
    from orchestrator.cli.commands import views

    views.track(study, open_store(store), tracking, Output(json))


@app.command(epilog="Example: lilora ui --port 5001")
def ui(
    store: StoreFolder = STORE,
    port: Annotated[int, typer.Option(min=1, max=65535, help="On 127.0.0.1.")] = 5000,
) -> None:
    """Open the MLflow UI on this store's runs."""
    from orchestrator.cli.commands import views

    raise typer.Exit(views.ui(open_store(store), port, Output()))


@app.command(epilog="Example: lilora show mini --out sheet.png")
def show(
    benchmark: Annotated[str, typer.Argument(metavar="BENCHMARK", help="A file of lilora/benchmarks.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The picture.")] = Path("sheet.png"),
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    columns: Annotated[int, typer.Option(min=1, max=12, help="Items a task.")] = 6,
    instructions: Annotated[str, typer.Option(help="single or five.")] = "single",
    store: StoreFolder = STORE,
    json: AsJson = False,
) -> None:
    """Draw a contact sheet of a benchmark: pictures, questions, answers."""
    from orchestrator.cli.commands import show as showing

    showing.show(benchmark, instructions, split, columns, out, open_store(store), Output(json))


@app.command(epilog="Example: lilora doctor")
def doctor(store: StoreFolder = STORE, json: AsJson = False) -> None:
    """What this machine has, what is wrong with it, and the remedy."""
    from orchestrator.cli.commands.doctor import examine

    raise typer.Exit(examine(open_store(store), Output(json)))


cli_jobs.add(app)
cli_data.add(app)
cli_store.add(app)
cli_sites.add(app)
cli_models.add(app)


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script."""
    # One thread a process, before anything loads a maths library: a second one loses much on a busy machine.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    app(args=None if arguments is None else list(arguments), prog_name="lilora")


if __name__ == "__main__":
    main()
