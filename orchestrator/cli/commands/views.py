"""`lilora report`, `track` and `ui`: views of what the store holds."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from rich.markup import escape

from orchestrator.cli.console import Output
from orchestrator.errors import UserError
from orchestrator.resolving.catalogue import find_target
from orchestrator.storage.store import Store
from orchestrator.tracking.writer import default_uri

HOST = "127.0.0.1"


def report(name: str, store: Store, out: Path | None, output: Output) -> None:
    """Write the report of the study `name`, finished or not."""
    from orchestrator.report import write_report

    lowered = find_target(name).study(store)
    with output.quiet():
        path = write_report(lowered, store, out)
    output.say(f"report   {escape(str(path))}")
    output.finish({"study": lowered.study.name, "report": str(path)})


def track(name: str, store: Store, uri: str | None, output: Output) -> None:
    """Rebuild the study's MLflow runs from the store; its search's are those of a study of their own.

    Raises:
        UserError: `uri` is "none", which is for `lilora run`.
    """
    if uri == "none":
        raise UserError(
            "'--tracking none' leaves nothing to do here: drop it to write mlflow.db in the store, or give MLflow's URI"
        )
    from orchestrator.tracking.listener import track as rebuild

    resolved = find_target(name).resolve(store)
    studies = [resolved.search] if resolved.search else []
    studies += [] if resolved.provisional else [resolved.table]
    with output.quiet():
        for lowered in studies:
            rebuild(lowered, store, uri)
    look = f"tracked at {escape(uri)}" if uri else f"to look: lilora ui --store {escape(str(store.root))}"
    for lowered in studies:
        output.say(f"{escape(lowered.study.name)}: {look}")
    if resolved.provisional:
        output.say(f"the search is not finished, so there is no table to track yet: `lilora run {escape(name)}`")
    names = [lowered.study.name for lowered in studies]
    output.finish({"study": resolved.table.study.name, "tracked": names, "tracking": uri or default_uri(store)})


def ui(store: Store, port: int, output: Output) -> int:
    """Serve the MLflow UI until Ctrl-C; gives the server's exit code.

    Raises:
        UserError: nothing was tracked, or the port is taken.
    """
    if not (store.root / "mlflow.db").is_file():
        raise UserError(f"the store {store.root} has no tracked runs: run a study, or `lilora track STUDY`, first")
    if not is_free(port):
        free = next((other for other in range(port + 1, port + 100) if other < 65536 and is_free(other)), None)
        remedy = f"use --port {free}" if free else "use another --port"
        raise UserError(f"port {port} of {HOST} is taken: {remedy}, or stop what listens there")
    output.say(f"MLflow starts (about 20 s); then open http://{HOST}:{port} and stop it with Ctrl-C")
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", default_uri(store)]
    server = subprocess.Popen(command, cwd=store.root, env={"MLFLOW_DISABLE_TELEMETRY": "true", **os.environ})
    signal.signal(signal.SIGTERM, lambda *_: server.terminate())
    try:
        return server.wait()
    except KeyboardInterrupt:
        server.terminate()
        server.wait()
        return 0


def is_free(port: int) -> bool:
    """Whether nothing listens on this port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
