"""The checkpoints of a step on an object store, so that another machine can go on from them.

The scratch folder travels as one object, `NUMBER.SHA256.tar`, the highest number being the last: so it is whole or not
there. A mark beside the folder says which object it was last equal to. If that is still the last one, this machine's
folder is as far or farther; else another machine went on after us, and its folder is taken.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
import tarfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from lilora.core.identity import sha256_of
from orchestrator.storage.backends.objects import Objects

#: A machine that is lost costs the work of so many seconds at most, and a checkpoint interval.
PUSH_SECONDS = 60.0


@dataclass
class ScratchSync:
    """Of one step: its objects, and the cache that holds its scratch folder.

    The caller holds the step's lease, or, to `fetch`, works for the process that does.
    """

    objects: Objects
    root: Path
    digest: str
    pushed: float = field(default_factory=time.monotonic)

    @property
    def folder(self) -> Path:
        """The step's scratch."""
        return self.root / "scratch" / self.digest

    @property
    def mark(self) -> Path:
        """Says which object the folder was last equal to."""
        return self.root / "scratch" / f"{self.digest}.synced"

    def fetch(self) -> None:
        """Take the last object's checkpoints, unless the folder is as far already; a damaged object is no loss."""
        last = self._last()
        if last is None or (self._marked().get("object") == last and self.folder.is_dir()):
            return
        staged = self.root / "staging" / f"{self.digest}.{secrets.token_hex(4)}.tar"
        unpacked = staged.with_suffix(".unpacked")
        try:
            self.objects.download(last, str(staged))
            if sha256_of(staged) != last.split(".")[1]:
                return
            with tarfile.open(staged) as archive:
                archive.extractall(unpacked, filter="data")
            shutil.rmtree(self.folder, ignore_errors=True)
            unpacked.rename(self.folder)
            self._write_mark(last)
        finally:
            staged.unlink(missing_ok=True)
            shutil.rmtree(unpacked, ignore_errors=True)

    def push_now_and_then(self) -> None:
        """`push`, but not within a minute of the last time; for a heartbeat to call."""
        if time.monotonic() - self.pushed >= PUSH_SECONDS:
            self.push()
            self.pushed = time.monotonic()

    def push(self) -> None:
        """Write the folder as the next object, if it has changed since it was equal to one."""
        if not self.folder.is_dir() or not any(self.folder.iterdir()):
            return
        if self._marked().get("signature") == self._signature():
            return
        # Taken before the archive: a file that changes while it is written is sent again the next time.
        last, signature = self._last(), self._signature()
        staged = self.root / "staging" / f"{self.digest}.{secrets.token_hex(4)}.tar"
        try:
            with tarfile.open(staged, "w") as archive:
                archive.add(self.folder, ".")
            number = int(last.split(".")[0]) + 1 if last else 1
            name = f"{number:06d}.{sha256_of(staged)}.tar"
            self.objects.upload(str(staged), name)
        finally:
            staged.unlink(missing_ok=True)
        self._write_mark(name, signature)
        # Only now: at every moment one whole object is there.
        for other in self.objects.names():
            if other < name and other.endswith(".tar"):
                self.objects.remove(other)

    def forget(self) -> None:
        """The step is finished: its checkpoints go, here and there."""
        self.mark.unlink(missing_ok=True)
        for name in self.objects.names():
            self.objects.remove(name)

    def _last(self) -> str | None:
        return max((name for name in self.objects.names() if name.endswith(".tar")), default=None)

    def _signature(self) -> str:
        """Changes whenever a file of the folder does."""
        found = [
            (path.relative_to(self.folder).as_posix(), path.stat().st_size, path.stat().st_mtime_ns)
            for path in sorted(self.folder.rglob("*"))
            if path.is_file()
        ]
        return hashlib.sha256(repr(found).encode()).hexdigest()

    def _marked(self) -> dict[str, str]:
        try:
            marked: dict[str, str] = json.loads(self.mark.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return marked

    def _write_mark(self, name: str, signature: str | None = None) -> None:
        text = json.dumps({"object": name, "signature": signature or self._signature()})
        self.mark.write_text(text, encoding="utf-8")
