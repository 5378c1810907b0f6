"""Small files by name, made exclusively: what leases and a sweep's notes are kept in.

Files of a folder here; `storage.backends.objects` has the objects of an object store.
"""

from __future__ import annotations

import dataclasses
import os
import secrets
from pathlib import Path
from typing import Protocol


class SmallFiles(Protocol):
    """Files of a few lines by name, as leases are."""

    def read(self, name: str) -> bytes | None:
        """The file's bytes; None if there is none."""

    def create(self, name: str, data: bytes) -> bool:
        """Make the file; False if it is there already. Of many at the same time one gets True."""

    def write(self, name: str, data: bytes) -> None:
        """Replace the file."""

    def remove(self, name: str) -> None:
        """Remove the file, if it is there."""

    def names(self) -> list[str]:
        """Every file."""


@dataclasses.dataclass(frozen=True)
class FolderFiles:
    """Files of a folder, on a local disk or a shared file system."""

    folder: Path

    def read(self, name: str) -> bytes | None:
        """See `SmallFiles`."""
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def create(self, name: str, data: bytes) -> bool:
        """See `SmallFiles`. A hard link appears whole, and over NFS too it is refused where the name is taken."""
        beside = self._beside(name, data)
        try:
            os.link(beside, self.folder / name)
        except FileExistsError:
            # NFS may answer a repeated request so, though the first was granted: then the file has our two names.
            return beside.stat().st_nlink == 2
        except OSError:
            return self._create_without_links(name, data)
        finally:
            beside.unlink(missing_ok=True)
        return True

    def write(self, name: str, data: bytes) -> None:
        """See `SmallFiles`. Renamed into place: half a lease would read as somebody else's."""
        self._beside(name, data).replace(self.folder / name)

    def remove(self, name: str) -> None:
        """See `SmallFiles`."""
        (self.folder / name).unlink(missing_ok=True)

    def names(self) -> list[str]:
        """See `SmallFiles`."""
        return [path.name for path in self.folder.iterdir()] if self.folder.is_dir() else []

    def _beside(self, name: str, data: bytes) -> Path:
        path = self.folder / f"{name}.{secrets.token_hex(4)}.new"
        path.write_bytes(data)
        return path

    def _create_without_links(self, name: str, data: bytes) -> bool:
        try:
            with (self.folder / name).open("xb") as file:
                file.write(data)
        except FileExistsError:
            return False
        return True
