"""`lilora ui`: MLflow's own pages on the runs that a store tracked."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from orchestrator.cli.console import Output
from orchestrator.cli.options import STORE, StoreFolder, open_store
from orchestrator.errors import UserError

HOST, PORT = "127.0.0.1", 5000
#: Without its jobs, of which nothing here makes any, MLflow's server starts no runner of jobs and no consumers of them.
SETTINGS = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def ui(
    store: StoreFolder = STORE,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help=f"On {HOST}; by default {PORT}, or the next that is free.")
    ] = None,
) -> None:
    """Open the MLflow UI on this store's runs, until Ctrl-C.

    Example: lilora ui --port 5001
    """
    place = open_store(store)
    if not (place.root / "mlflow.db").is_file():
        raise UserError(f"the store {place.root} has no tracked runs: run a study, or `lilora track STUDY`, first")
    port = free_port(PORT) or PORT if port is None else port
    if not is_free(port):
        free = free_port(port)
        remedy = f"use --port {free}" if free else "use another --port"
        raise UserError(f"port {port} of {HOST} is taken: {remedy}, or stop what listens there")
    import signal
    import subprocess

    from orchestrator.tracking.place import default_uri, follow_move

    follow_move(place)
    Output().say(f"MLflow starts (about 20 s); then open http://{HOST}:{port} and stop it with Ctrl-C")
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", default_uri(place)]
    server = subprocess.Popen(command, cwd=place.root, env=SETTINGS | os.environ)
    signal.signal(signal.SIGTERM, lambda *_: server.terminate())
    try:
        raise typer.Exit(server.wait())
    except KeyboardInterrupt:
        server.terminate()
        server.wait()


def free_port(first: int) -> int | None:
    """The first port from `first` on that nothing listens on, of a hundred; None where all are taken."""
    return next((port for port in range(first, min(first + 100, 65536)) if is_free(port)), None)


def is_free(port: int) -> bool:
    """Whether nothing listens on this port of 127.0.0.1."""
    import socket

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
