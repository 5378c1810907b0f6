"""The parcel of a submission: the working folder that Ray packs and sends, and what of it stays here.

Ray packs it by its own rules, of which `.gitignore` and `.rayignore` are part; the same code is uploaded once. Files
that are too big to be code stay here, and are named; a parcel that is still too big is refused, with what makes it so,
before anything is sent.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import UserError
from orchestrator.formats import format_bytes

LEFT_OUT = (
    *(".git", ".venv", "venv", "node_modules", "build", "dist", "*.egg-info"),
    *("__pycache__", "*.pyc", ".pytest_cache", ".mypy_cache", ".ruff_cache"),
    *(".lilora*", "mlruns", "mlartifacts", "*.db", "*.parquet", "*.arrow"),
)
"""Files and folders that are never code, as `.gitignore` would say it: environments, caches, results, data."""

MAXIMUM_FILE_BYTES = 16 * 2**20
MAXIMUM_BYTES = 64 * 2**20
NUM_NAMED = 5


@dataclass(frozen=True)
class Parcel:
    """A working folder for Ray's `working_dir`, and the `excludes` that go with it.

    Attributes:
        folder: the working folder.
        excludes: what stays here beside what its `.gitignore` and `.rayignore` name, in their language.
        files: names of what is sent, with slashes, sorted.
        bytes: their sizes added up; Ray does not compress them.
        too_big: files left out since each is over `MAXIMUM_FILE_BYTES`: name and size.
    """

    folder: Path
    excludes: tuple[str, ...]
    files: tuple[str, ...]
    bytes: int
    too_big: tuple[tuple[str, int], ...]


def collect(folder: Path, left_out: Sequence[str] = (), besides: Path | None = None) -> Parcel:
    """The parcel of a folder.

    Args:
        folder: the working folder.
        left_out: more patterns of what stays, as `.gitignore` has them.
        besides: a folder that stays here wherever it lies: the store.

    Raises:
        UserError: there is no such folder, there is nothing in it, or there is too much.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder} to send: name the one with your code with --working-dir DIR")
    folder = folder.resolve()
    sizes, excludes = _travel(folder, [*LEFT_OUT, *left_out], besides.resolve() if besides else None)
    too_big = tuple((name, count) for name, count in sizes.items() if count > MAXIMUM_FILE_BYTES)
    kept = {name: count for name, count in sizes.items() if count <= MAXIMUM_FILE_BYTES}
    total = sum(kept.values())
    if not kept:
        raise UserError(f"there is nothing to send in {folder}: name the folder with your code with --working-dir DIR")
    if total > MAXIMUM_BYTES:
        raise UserError(
            f"{folder} has {format_bytes(total)} in {len(kept)} files, and at most {format_bytes(MAXIMUM_BYTES)} are "
            f"sent as code; the most is in {_largest(kept)}. Leave it out with --exclude PATTERN, or name a folder "
            "with less in it with --working-dir DIR; data belong on the shared storage"
        )
    return Parcel(folder, (*excludes, *(_only(name) for name, _ in too_big)), tuple(sorted(kept)), total, too_big)


def _travel(folder: Path, patterns: list[str], store: Path | None) -> tuple[dict[str, int], list[str]]:
    """The files that Ray would pack, with their sizes, and the patterns with what was found on the way that stays."""
    from ray._private.ray_constants import RAY_RUNTIME_ENV_IGNORE_GITIGNORE

    # Private, but the very functions that pack: two readings of `.gitignore` would sooner or later differ.
    from ray._private.runtime_env.packaging import _dir_travel, _get_excludes

    sizes: dict[str, int] = {}
    stays: list[str] = []

    def stays_here(path: Path) -> bool:
        # Ray follows links to folders: into the data, or in circles.
        if path != store and not (path.is_symlink() and path.is_dir()):
            return False
        stays.append(_only(path.relative_to(folder).as_posix()))
        return True

    def measure(path: Path) -> None:
        if path.is_file():
            sizes[path.relative_to(folder).as_posix()] = path.stat().st_size

    gitignore = os.environ.get(RAY_RUNTIME_ENV_IGNORE_GITIGNORE, "0") != "1"
    rules, silent = [_get_excludes(folder, patterns), stays_here], logging.getLogger(__name__)
    _dir_travel(folder, rules, measure, include_gitignore=gitignore, logger=silent)
    return sizes, [*patterns, *stays]


def _only(name: str) -> str:
    """The pattern of this path inside the folder, and of no other."""
    return "/" + re.sub(r"[\\*?\[\] ]", r"\\\g<0>", name)


def _largest(sizes: dict[str, int]) -> str:
    """The folders (at the top) and files with the most in them."""
    tops: dict[str, int] = {}
    for name, count in sizes.items():
        top, slash, _ = name.partition("/")
        tops[top + slash] = tops.get(top + slash, 0) + count
    ordered = sorted(tops.items(), key=lambda item: -item[1])[:NUM_NAMED]
    return ", ".join(f"{name} ({format_bytes(count)})" for name, count in ordered)
