"""The health of this machine and a store: what is there, what is wrong with it, and the remedy. It changes nothing."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from lilora.core.allowance import allowance
from lilora.core.home import STAND_IN
from orchestrator.cluster.session import LONGEST_TEMP_DIR
from orchestrator.errors import MINIMUM_FREE_BYTES
from orchestrator.formats import format_bytes
from orchestrator.storage.store import Store

# As in constraints.txt (a test compares them): what was tested together.
TESTED = {
    "torch": "2.13.0",
    "ray": "2.60.0",
    "transformers": "5.23.0",
    "peft": "0.21.2",
    "accelerate": "1.15.0",
    "deepspeed": "0.19.8",
    "mlflow": "3.17.2",
    "datasets": "5.2.0",
    "polars": "2.1.0",
}
GIB = 2**30


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at, and what to do if it is not well."""

    what: str
    state: Literal["ok", "warning", "error"]
    detail: str
    remedy: str = ""


def processors() -> Iterator[Finding]:
    """Cores that this process may use, as a run does, and threads."""
    may = allowance()
    limited = f" of the machine's {may.machine_cores}: this container's or job's limit"
    limited = limited if may.cores < may.machine_cores else ""
    if may.cores < 1:
        remedy = "ask for a whole core or more: a step waits for its share between turns, and so do its heartbeats"
        yield Finding("CPU", "warning", f"{may.cores:.2g} cores{limited}", remedy)
    else:
        yield Finding("CPU", "ok", f"{may.whole_cores} cores{limited}")
    threads = os.environ.get("OMP_NUM_THREADS")
    if threads and threads.isdigit() and int(threads) > 1:
        remedy = "unset OMP_NUM_THREADS: with several workers a second thread each loses up to 12 times the speed"
        yield Finding("threads", "warning", f"OMP_NUM_THREADS={threads} is passed on to the workers", remedy)
    else:
        yield Finding("threads", "ok", "one a worker")


def memory() -> Iterator[Finding]:
    """Main memory that this process may use, and shared memory."""
    may = allowance()
    text = f"{format_bytes(may.free_memory)} free of {format_bytes(may.memory)}"
    if may.memory < may.machine_memory:
        text += f": this container's or job's limit; the machine has {format_bytes(may.machine_memory)}"
    low = may.free_memory < 3 * GIB
    remedy = "close something, or run with --slots 1: a worker takes about 1 GiB on the tiny backbone"
    yield Finding("memory", "warning" if low else "ok", text, remedy if low else "")
    shared = Path("/dev/shm")
    if shared.is_dir():
        room = shutil.disk_usage(shared)
        small = room.free < GIB // 4
        remedy = "give the container more: docker run --shm-size=1g" if small else ""
        yield Finding(
            "/dev/shm",
            "error" if small else "ok",
            f"{format_bytes(room.free)} free of {format_bytes(room.total)}",
            remedy,
        )


def home() -> Iterator[Finding]:
    """The home folder, where libraries keep caches, and downloaded models."""
    folder = Path.home()
    remedy = "set HOME, or HF_HOME (models), XDG_CACHE_HOME and MPLCONFIGDIR, to folders of your own"
    if folder.name.startswith(STAND_IN):
        yield Finding("home", "warning", f"this user has none; {folder} stands in, and may go at any time", remedy)
        return
    try:
        with tempfile.TemporaryFile(dir=_existing(folder)):
            yield Finding("home", "ok", str(folder))
    except OSError as error:
        yield Finding("home", "warning", f"{folder} cannot be written ({error.strerror}): nothing is cached", remedy)


def accelerators() -> Iterator[Finding]:
    """What torch sees."""
    torch = _module("torch")
    if isinstance(torch, str):
        yield Finding("torch", "error", torch, "install it: pip install torch -c constraints.txt")
        return
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_properties(place) for place in range(torch.cuda.device_count())]
        yield Finding("GPU", "ok", ", ".join(f"{item.name} ({format_bytes(item.total_memory)})" for item in names))
    elif shutil.which("nvidia-smi") and torch.version.cuda is None:
        remedy = f"install the CUDA build: pip install torch=={TESTED['torch']}"
        yield Finding(
            "GPU", "warning", f"there is an NVIDIA driver, but torch {torch.__version__} is a CPU build", remedy
        )
    elif shutil.which("nvidia-smi"):
        remedy = "see what `nvidia-smi` says, and whether CUDA_VISIBLE_DEVICES hides them"
        yield Finding("GPU", "warning", "torch was built for CUDA and sees no GPU", remedy)
    else:
        yield Finding("GPU", "ok", "none; the tiny backbone needs none")


def packages() -> Iterator[Finding]:
    """Versions against what is required and what was tested."""
    yield Finding("Python", "ok" if sys.version_info >= (3, 11) else "error", sys.version.split()[0])
    ranges = _ranges()
    for name, tested in TESTED.items():
        try:
            found = version(name)
        except PackageNotFoundError:
            yield Finding(name, "error", "not installed", f"pip install '{name}=={tested}'")
            continue
        wanted = ranges.get(name)
        if wanted is not None and not wanted.contains(found, prereleases=True):
            yield Finding(name, "error", f"{found}, needs {wanted}", f"pip install '{name}=={tested}'")
        elif found.partition("+")[0] != tested:
            remedy = f"if something breaks: pip install '{name}=={tested}'"
            yield Finding(name, "warning", f"{found}; {tested} is what was tested", remedy)
        else:
            yield Finding(name, "ok", found)


def _ranges() -> dict[str, Any]:
    """The ranges that the installed distribution asks for; empty when run from source."""
    from packaging.requirements import Requirement

    try:
        listed = [Requirement(text) for text in requires("lilora") or ()]
    except PackageNotFoundError:
        return {}
    return {item.name: item.specifier for item in listed if item.marker is None}


def vision() -> Iterator[Finding]:
    """Torchvision: fine when absent or whole; half of one breaks transformers."""
    if find_spec("torchvision") is None:
        yield Finding("torchvision", "ok", "absent; images are processed with Pillow")
        return
    found = _module("torchvision")
    if isinstance(found, str):
        remedy = (
            "pip uninstall torchvision, or install the build that fits this torch: transformers breaks on half of one"
        )
        yield Finding("torchvision", "error", found, remedy)
    else:
        yield Finding("torchvision", "ok", f"{found.__version__}; images are processed with Pillow all the same")


def cluster() -> Iterator[Finding]:
    """Whether Ray could start: it is not started."""
    ray = _module("ray")
    if isinstance(ray, str):
        yield Finding("Ray", "error", ray, f"pip install 'ray[default,train,tune]=={TESTED['ray']}'")
        return
    address = os.environ.get("RAY_ADDRESS")
    note = f"RAY_ADDRESS={address} is not used; give --address" if address else "imports; a run starts its own"
    yield Finding("Ray", "ok", note)
    folder = tempfile.gettempdir()
    if not os.access(folder, os.W_OK):
        yield Finding("temp folder", "error", f"{folder} cannot be written", "set TMPDIR to a short path of your own")
    elif len(folder) + len("/lilora-ray-65536") > LONGEST_TEMP_DIR:
        remedy = "set TMPDIR to a shorter path: sockets may have 107 bytes; until then Ray uses /tmp"
        yield Finding("temp folder", "warning", f"{folder} is too long for Ray's sockets", remedy)
    else:
        yield Finding("temp folder", "ok", folder)


def storage(store: Store) -> Iterator[Finding]:
    """Whether the store can be written, and how much room it has."""
    root = store.root
    existing = _existing(root)
    remedy = "name a folder that you can write to with --store DIR or LILORA_STORE"
    if not existing.is_dir():
        yield Finding("store", "error", f"{existing} is not a folder", remedy)
        return
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        yield Finding("store", "error", f"{existing} cannot be written ({error.strerror})", remedy)
        return
    count = len(store.digests())
    yield Finding("store", "ok", f"{root}, {count} artifacts" if root.exists() else f"{root}, made by the first run")
    free = shutil.disk_usage(existing).free
    state: Literal["ok", "warning", "error"]
    state = "error" if free < MINIMUM_FREE_BYTES else "warning" if free < 2 * GIB else "ok"
    remedy = "free some space, or name a store on another disk" if state != "ok" else ""
    yield Finding("disk", state, f"{format_bytes(free)} free", remedy)


def _existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.parents) if place.exists())


def _module(name: str) -> Any:
    """The module, or what is wrong with it as text."""
    try:
        return importlib.import_module(name)
    except Exception as error:  # A broken binary package raises anything on import.
        return f"cannot be imported ({type(error).__name__}: {error})"


def findings(store: Store) -> list[Finding]:
    """Everything, in the order in which it is shown."""
    looks: tuple[Callable[[], Iterator[Finding]], ...] = (
        processors, memory, home, accelerators, packages, vision, cluster
    )  # fmt: skip
    return [finding for look in looks for finding in look()] + list(storage(store))
