"""Parquet files of many artifacts as one polars frame, read in one go."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from orchestrator.storage.store import Store

if TYPE_CHECKING:
    import polars

#: What of a picture's column is read under this name: its path.
PICTURE = "picture"
#: Fewer files than these are read by one scan.
LEAST_FILES = 256


def read_tables(
    store: Store, files: Sequence[tuple[str, str]], columns: Sequence[str], present: frozenset[str] | None = None
) -> polars.DataFrame:
    """These columns of files (digest of the artifact, name in it), and the `file` (number) of each row, in their order.

    A file that is not there, or cannot be read, has no rows; a column that none has is null. `present`: what is known
    to be in the store, where it was looked through before.
    """
    import polars as pl

    present = store.digests() if present is None else present
    paths = [(store.file(digest, name), place) for place, (digest, name) in enumerate(files) if digest in present]
    # A scan of very small files kept one core busy: several at a time.
    size = max(LEAST_FILES, -(-len(paths) // pl.thread_pool_size()))
    parts = [dict(paths[start : start + size]) for start in range(0, len(paths), size)]
    with ThreadPoolExecutor(max(1, len(parts))) as pool:
        found = [table for tables in pool.map(lambda part: _readable(part, columns), parts) for table in tables]
    numbers = dict.fromkeys(("main", "strict", "lenient", "following"), pl.Float64)
    known: dict[str, Any] = numbers | {"references": pl.List(pl.String)}
    types = {name: known.get(name, pl.String) for name in columns if name != "image"}
    table = pl.concat([pl.DataFrame(schema={"file": pl.UInt32, **types}), *found], how="diagonal_relaxed")
    return table.select("file", *(name for name in columns if name in table.columns))


def _readable(paths: dict[str, int], columns: Sequence[str]) -> list[polars.DataFrame]:
    """What can be read of these files; where one cannot, or has other columns, the halves are looked at apart."""
    import polars as pl

    try:
        return [_scan(paths, columns)]
    except (OSError, pl.exceptions.PolarsError):
        every = list(paths.items())
        middle = len(every) // 2
        halves = [every[:middle], every[middle:]] if middle else []
        return [table for half in halves for table in _readable(dict(half), columns)]


def _scan(paths: dict[str, int], columns: Sequence[str]) -> polars.DataFrame:
    import polars as pl

    scan = pl.scan_parquet(list(paths), glob=False, include_file_paths="_path", extra_columns="ignore")
    there = set(scan.collect_schema().names())
    chosen: list[Any] = [name for name in columns if name in there]
    if PICTURE in columns and "image" in there:
        chosen.append(pl.col("image").struct.field("path").alias(PICTURE))
    table = scan.select("_path", *chosen).collect()
    # A file's rows come together: its name is looked up once, not for each row.
    runs = table["_path"].rle().struct.unnest()
    places = runs["value"].replace_strict(list(paths), list(paths.values()), return_dtype=pl.UInt32)
    numbers = pl.DataFrame({"file": places, "len": runs["len"]}).select(pl.col("file").repeat_by("len").explode())
    return table.drop("_path").with_columns(numbers["file"])
