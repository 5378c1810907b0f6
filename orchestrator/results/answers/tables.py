"""Parquet files of many artifacts as one polars frame, read in one go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.storage.store import Store

if TYPE_CHECKING:
    import polars

#: What of a picture's column is read under this name: its path.
PICTURE = "picture"


def read_tables(store: Store, files: Sequence[tuple[str, str]], columns: Sequence[str]) -> polars.DataFrame:
    """These columns of files (digest of the artifact, name in it), and the `file` (number) of each row, in their order.

    A file that is not there, or cannot be read, has no rows; a column that none has is null.
    """
    import polars as pl

    present = store.digests()
    paths = {f"{store.fetch(digest)}/{name}": place for place, (digest, name) in enumerate(files) if digest in present}
    try:
        found = [_scan(paths, columns)]
    except (OSError, pl.exceptions.PolarsError):
        found = []
        for path, place in paths.items():
            try:
                found.append(_scan({path: place}, columns))
            except (OSError, pl.exceptions.PolarsError):
                continue
    numbers = dict.fromkeys(("main", "strict", "lenient", "following"), pl.Float64)
    known: dict[str, Any] = numbers | {"references": pl.List(pl.String)}
    types = {name: known.get(name, pl.String) for name in columns if name != "image"}
    table = pl.concat([pl.DataFrame(schema={"file": pl.UInt32, **types}), *found], how="diagonal_relaxed")
    return table.select("file", *(name for name in columns if name in table.columns))


def _scan(paths: dict[str, int], columns: Sequence[str]) -> polars.DataFrame:
    import polars as pl

    if not paths:
        return pl.DataFrame()
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
