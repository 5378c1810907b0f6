"""`lilora submit`, `attach`, `stop`: a study as a Ray job on a running cluster.

What is sent is the working folder without data. It becomes the job's current folder and comes first on every worker's
import path, so a checkout of this package in it is what runs; else the one that is installed on the machines is.
"""

from __future__ import annotations

import json as json_module
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from orchestrator.cli.console import Output
from orchestrator.cli.options import AsJson, Real, StudyName, chosen
from orchestrator.errors import UserError
from orchestrator.formats import format_bytes

if TYPE_CHECKING:
    from orchestrator.cluster.head import Head, HeadJob
    from orchestrator.cluster.parcel import Parcel

Address = Annotated[
    str,
    typer.Option("--address", metavar="URL", envvar="RAY_API_SERVER_ADDRESS", help="The head's dashboard."),
]
JobName = Annotated[str, typer.Argument(metavar="ID", help="As `lilora submit` named it.")]
LOCAL = "http://127.0.0.1:8265"
LOOK_SECONDS = 300

# Run in the working folder, with the code that will be sent: the study's own name, and how many steps it takes.
_LOOK = """
import json, sys
from orchestrator.resolving.catalogue import find_target
try:
    target = find_target(sys.argv[1])
    answer = {"name": target.name, "steps": target.plan.distinct}
except (ValueError, TypeError, OSError, ImportError) as error:
    answer = {"error": str(error) or type(error).__name__}
print(json.dumps(answer))
"""


def submit(
    study: StudyName,
    options: Annotated[
        list[str] | None, typer.Argument(metavar="[-- OPTIONS]", help="For `lilora run` in the job.")
    ] = None,
    address: Address = LOCAL,
    real: Real = False,
    store: Annotated[
        str | None,
        typer.Option(
            "--store", metavar="DIR", envvar="LILORA_STORE", help="On storage that every machine shares; a full path."
        ),
    ] = None,
    working_dir: Annotated[
        Path, typer.Option("--working-dir", metavar="DIR", help="The code that is sent, without data.")
    ] = Path(),
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", metavar="PATTERN", help="More of it to leave out, as 'notes/*'.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Follow it to its end; its exit code becomes this one.")] = False,
    json: AsJson = False,
) -> None:
    """Run a study as a job on a Ray cluster; Ctrl-C leaves it running.

    A study that runs there already, into the same store, is not started twice: its job is named.

    Example: lilora submit quickstart --address http://HEAD:8265 --store /shared/store --wait -- --slots 8
    """
    from orchestrator.cluster.head import Head, base_name
    from orchestrator.cluster.parcel import collect

    output, place, named = Output(json), checked_store(store), chosen(study, real)
    parcel = collect(working_dir, exclude or [], None if "://" in place else Path(place))
    name, steps = look(named, parcel.folder)
    head = Head(address)
    command = entrypoint(named, place, options or [])
    metadata = {"study": name, "store": place, "from": "lilora submit"}
    job, started = head.submit(base_name(name, place), command, parcel, metadata)
    _say_submitted(output, job, started, parcel, steps)
    answer = {"job": job, "address": head.address, "study": name, "store": place, "started": started}
    if wait:
        raise typer.Exit(_follow(head, job, output, answer))
    state = head.wait_for_start(job)
    _say_how_to(output, head, job)
    if state.ended:
        _say_log(output, head, state)
    output.finish(answer | {"status": state.status, "exit_code": state.code if state.ended else None})
    raise typer.Exit(state.code if state.ended else 0)


def attach(name: JobName, address: Address = LOCAL, json: AsJson = False) -> None:
    """Follow a submitted study from its beginning; ends with its exit code.

    Example: lilora attach lilora-quickstart-0a1b2c3d4e-1 --address http://HEAD:8265
    """
    from orchestrator.cluster.head import Head

    head = Head(address)
    head.job(name)
    raise typer.Exit(_follow(head, name, Output(json), {"job": name, "address": head.address}))


def stop(name: JobName, address: Address = LOCAL, json: AsJson = False) -> None:
    """Stop a submitted study; what is finished is kept.

    Exit code 1 if it has not ended within a minute.

    Example: lilora stop lilora-quickstart-0a1b2c3d4e-1 --address http://HEAD:8265
    """
    from orchestrator.cluster.head import Head

    output, head = Output(json), Head(address)
    before = head.job(name)
    job = before if before.ended else head.stop(name)
    if before.ended:
        output.say(f"{name} had ended before: {before.status}")
    elif job.ended:
        output.say(f"{name} is stopped; what is finished is kept, and submitting it again goes on from there")
    else:
        output.say(f"{name} was asked to stop and still is {job.status}: look again with `lilora attach`")
    output.finish({"job": name, "address": head.address, "status": job.status, "stopped": not before.ended})
    raise typer.Exit(0 if job.ended else 1)


def checked_store(store: str | None) -> str:
    """The store as every machine of the cluster will name it.

    Raises:
        UserError: none is named, or a relative one, which would lie in the job's throw-away folder.
    """
    if not store:
        raise UserError("name the store with --store: a folder that every machine mounts at the same path")
    if "://" not in store and not store.startswith("/"):
        raise UserError(
            f"the store '{store}' is relative, and would go with the job's folder: give the full path of a folder that "
            "every machine mounts, or the URL of an object store"
        )
    return store.rstrip("/")


def entrypoint(study: str, store: str, options: Sequence[str]) -> str:
    """The job's command: `lilora run`, by a name that finds a checkout in the working folder as well."""
    words = ["python", "-m", "orchestrator.cli", "run", study, "--address", "auto", "--store", store, *options]
    return shlex.join(words)


def look(study: str, folder: Path) -> tuple[str, int]:
    """The study's name and number of steps, as the code in `folder` has it.

    Raises:
        UserError: there is no such study there, or it cannot be planned.
    """
    import subprocess

    if Path(study.partition(":")[0]).is_absolute():
        raise UserError(f"the study '{study}' has a path of this machine: give it as it is named inside {folder}")
    try:
        done = subprocess.run(
            [sys.executable, "-c", _LOOK, study], cwd=folder, capture_output=True, text=True, timeout=LOOK_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(f"planning '{study}' took over {LOOK_SECONDS} s: try `lilora plan {study}`") from error
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        last = (done.stderr.strip().splitlines() or ["no answer"])[-1]
        raise UserError(f"'{study}' cannot be planned in {folder} ({last}): try `lilora plan {study}` there")
    answer = json_module.loads(lines[-1])
    if "error" in answer:
        raise UserError(f"in {folder}: {answer['error']}")
    return str(answer["name"]), int(answer["steps"])


def _follow(head: Head, name: str, output: Output, answer: dict[str, object]) -> int:
    """Show the job's log until it ends; Ctrl-C leaves it running."""
    from orchestrator.cluster.head import INTERRUPTED

    stream = sys.stderr if output.as_json else sys.stdout

    def write(text: str) -> None:
        stream.write(text)
        stream.flush()

    try:
        job = head.follow(name, write)
    except KeyboardInterrupt:
        output.say("")
        output.say(f"{name} runs on")
        _say_how_to(output, head, name)
        output.finish(answer | {"status": "RUNNING", "exit_code": None})
        return INTERRUPTED
    if job.status != "SUCCEEDED":
        output.say(f"{name}: {job.status}, exit code {job.code}")
        if job.exit_code is None and job.message:
            output.say(escape(job.message))
    output.finish(answer | {"status": job.status, "exit_code": job.code})
    return job.code


def _say_submitted(output: Output, name: str, started: bool, parcel: Parcel, steps: int) -> None:
    if not started:
        output.say(f"{name} runs already, with the code that it was sent then; nothing was started")
        return
    sent = f"{len(parcel.files)} files, {format_bytes(parcel.bytes)}"
    output.say(f"{name}: {steps} steps; sent {sent} of {escape(str(parcel.folder))}")
    for file, count in parcel.too_big:
        output.say(f"[yellow]left out, too big for code:[/yellow] {escape(file)} ({format_bytes(count)})")


def _say_how_to(output: Output, head: Head, name: str) -> None:
    for what, verb in (("follow", "attach"), ("stop", "stop")):
        output.say(f"{what:<8} {escape(shlex.join(['lilora', verb, name, '--address', head.address]))}")


def _say_log(output: Output, head: Head, job: HeadJob) -> None:
    output.say(f"{job.name} ended at once: {job.status}, exit code {job.code}")
    output.say(escape(head.log(job.name) or job.message))
