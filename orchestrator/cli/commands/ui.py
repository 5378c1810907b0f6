"""`lilora ui`: MLflow's own pages on the runs that a store tracked."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from orchestrator.cli.console import Output
from orchestrator.cli.options import STORE, StoreFolder, open_store
from orchestrator.errors import UserError

if TYPE_CHECKING:
    from orchestrator.storage.store import Store

#: Studies whose addresses are printed; of more, the page at the server's address has the list.
MOST_PAGES = 8
#: Without its jobs, of which nothing here makes any, MLflow's server starts no runner of jobs and no consumers of them.
SETTINGS = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def ui(
    store: StoreFolder = STORE,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="On 127.0.0.1; by default 5000, or the next that is free.")
    ] = None,
    find: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="The trials of all studies that have it; may be given several times."),
    ] = None,
) -> None:
    """Open the MLflow UI on this store's runs, until Ctrl-C.

    It prints an address for each study, which opens with its table. NAME is a parameter of a trial's run: method,
    backbone, seed, method.rank, training.learning_rate, ...

    Example: lilora ui --find method=lilora --find method.rank=16 --find backbone=tiny_llava
    """
    from orchestrator.tracking.place import HOST, PORT, default_uri, put_right

    place = open_store(store)
    if not (place.root / "mlflow.db").is_file():
        raise UserError(f"the store {place.root} has no tracked runs: run a study, or `lilora track STUDY`, first")
    wanted = dict(_pair(text) for text in find or ())
    port = free_port(PORT) or PORT if port is None else port
    if not is_free(port):
        free = free_port(port)
        remedy = f"use --port {free}" if free else "use another --port"
        raise UserError(f"port {port} of {HOST} is taken: {remedy}, or stop what listens there")
    import signal
    import subprocess

    put_right(place)
    _say_addresses(place, port, wanted)
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", default_uri(place)]
    server = subprocess.Popen(command, cwd=place.root, env=SETTINGS | os.environ)
    signal.signal(signal.SIGTERM, lambda *_: server.terminate())
    try:
        raise typer.Exit(server.wait())
    except KeyboardInterrupt:
        server.terminate()
        server.wait()


def _say_addresses(place: Store, port: int, wanted: dict[str, str]) -> None:
    """Where to look, once the server is up."""
    from orchestrator.tracking.place import HOST, pages_in
    from orchestrator.tracking.search import filter_of, found_page

    output, pages = Output(), pages_in(place, port)
    output.say(f"MLflow starts (about 20 s); then open http://{HOST}:{port} and stop it with Ctrl-C")
    if wanted:
        output.say(f"all studies' trials where {escape(filter_of(wanted))}:")
        output.say(f"  {escape(found_page(pages, wanted, port))}")
        return
    if not pages:
        output.say("no study has an address of its own yet: `lilora track STUDY` gives it one")
    for page in pages[:MOST_PAGES]:
        output.say(f"{escape(page.name)}:\n  {escape(page.address)}")
    if len(pages) > MOST_PAGES:
        output.say(f"and {len(pages) - MOST_PAGES} more studies, without an address of their own here")


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise UserError(f"--find takes NAME=VALUE, as in --find method.rank=16, and not '{text}'")
    return name, value


def free_port(first: int) -> int | None:
    """The first port from `first` on that nothing listens on, of a hundred; None where all are taken."""
    return next((port for port in range(first, min(first + 100, 65536)) if is_free(port)), None)


def is_free(port: int) -> bool:
    """Whether nothing listens on this port of 127.0.0.1."""
    import socket

    from orchestrator.tracking.place import HOST

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
