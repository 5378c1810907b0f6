"""What of a working folder goes to a cluster: the code of a study, without data, results or environments.

The parcel is a zip whose bytes depend on the files alone, so the same code is uploaded once. Files that are too big to
be code are left out, and named; a parcel that is still too big is refused, with what makes it so.
"""

from __future__ import annotations

import fnmatch
import os
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import UserError
from orchestrator.formats import size

LEFT_OUT = (
    *(".git", ".venv", "venv", "node_modules", "build", "dist", "*.egg-info"),
    *("__pycache__", "*.pyc", ".pytest_cache", ".mypy_cache", ".ruff_cache"),
    *(".lilora*", "mlruns", "mlartifacts", "*.db", "*.parquet", "*.arrow"),
)
"""Names of files and folders that are never code: environments, caches, results, data."""

MAXIMUM_FILE_BYTES = 16 * 2**20
MAXIMUM_BYTES = 64 * 2**20
NUM_NAMED = 5


@dataclass(frozen=True)
class Parcel:
    """The files of `folder` to be sent, by their names inside it.

    Attributes:
        folder: the working folder.
        files: names with slashes, sorted.
        bytes: their sizes added up, before they are packed.
        too_big: files left out since each is over `MAXIMUM_FILE_BYTES`: name and size.
    """

    folder: Path
    files: tuple[str, ...]
    bytes: int
    too_big: tuple[tuple[str, int], ...]

    def write(self, target: Path) -> None:
        """Write the parcel as a zip; the same files give the same bytes."""
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in self.files:
                path = self.folder / name
                entry = zipfile.ZipInfo(name)
                entry.external_attr = (0o755 if os.access(path, os.X_OK) else 0o644) << 16
                entry.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(entry, path.read_bytes())


def collect(folder: Path, left_out: Sequence[str] = (), besides: Path | None = None) -> Parcel:
    """What of `folder` is sent.

    Args:
        folder: the working folder.
        left_out: more patterns (as `LEFT_OUT`; also of paths inside the folder, as "data/*") of what stays.
        besides: a folder that stays here wherever it lies: the store.

    Raises:
        UserError: there is no such folder, there is nothing in it, or there is too much.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder} to send: name the one with your code with --working-dir DIR")
    folder = folder.resolve()
    store = besides.resolve() if besides else None
    sizes = {name: (folder / name).stat().st_size for name in _names(folder, (*LEFT_OUT, *left_out), store)}
    too_big = tuple((name, count) for name, count in sizes.items() if count > MAXIMUM_FILE_BYTES)
    kept = {name: count for name, count in sizes.items() if count <= MAXIMUM_FILE_BYTES}
    total = sum(kept.values())
    if not kept:
        raise UserError(f"there is nothing to send in {folder}: name the folder with your code with --working-dir DIR")
    if total > MAXIMUM_BYTES:
        raise UserError(
            f"{folder} has {size(total)} in {len(kept)} files, and at most {size(MAXIMUM_BYTES)} are sent as code; the "
            f"most is in {_largest(kept)}. Leave it out with --exclude PATTERN, or name a folder with less in it with "
            "--working-dir DIR; data belong on the shared storage"
        )
    return Parcel(folder, tuple(sorted(kept)), total, too_big)


def _names(folder: Path, patterns: Sequence[str], store: Path | None) -> Iterator[str]:
    for parent, folders, names in os.walk(folder):
        here = Path(parent)
        folders[:] = sorted(name for name in folders if _goes(folder, here / name, patterns, store))
        for name in sorted(names):
            path = here / name
            if path.is_file() and _goes(folder, path, patterns, store):
                yield path.relative_to(folder).as_posix()


def _goes(folder: Path, path: Path, patterns: Sequence[str], store: Path | None) -> bool:
    """Whether a path is part of the parcel: neither its name nor its place inside the folder matches a pattern."""
    inside = path.relative_to(folder).as_posix()
    matched = any(fnmatch.fnmatchcase(path.name, item) or fnmatch.fnmatchcase(inside, item) for item in patterns)
    return not matched and path != store


def _largest(sizes: dict[str, int]) -> str:
    """The folders (at the top) and files with the most in them."""
    tops: dict[str, int] = {}
    for name, count in sizes.items():
        top, slash, _ = name.partition("/")
        tops[top + slash] = tops.get(top + slash, 0) + count
    ordered = sorted(tops.items(), key=lambda item: -item[1])[:NUM_NAMED]
    return ", ".join(f"{name} ({size(count)})" for name, count in ordered)
