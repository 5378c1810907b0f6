"""The columns of a task's rows on disk, and the one writer and reader of such files.

A column is written down here once: its name, its type, what stands where a row has nothing, and what it means. The
bytes of a file follow from the rows and the columns alone. A file that lacks a column is read as if each row had
nothing there; a row that lacks one is written so, but for what every row needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import polars
    from datasets import Features

#: The default of what every row has.
NEEDED: Final = object()
#: Rows of a file that are held, and packed into one group, at a time.
GROUP = 4096
#: As many where pictures are in the rows, and the file is packed as `datasets` packs one.
GROUP_WITH_PICTURES = 1000


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        type: "image" ({bytes, path}, of which one may be null), or a type in Arrow's notation: "list<string>".
        meaning: in a few words.
        default: what stands where a row has nothing; `NEEDED` where each has something.
    """

    name: str
    type: str
    meaning: str
    default: Any = NEEDED


ID = Column("id", "string", "name of the row, unique in its file")
IMAGE = Column("image", "image", "encoded picture, or its path below the image folder", None)
INSTRUCTION = Column("instruction", "string", "question and template of the first turn, without an image token")
ANSWER = Column("answer", "string", "what is learned as the answer of the first turn")
REFERENCES = Column("references", "list<string>", "every right answer", [])
TYPE = Column("type", "string", "of the question, where one is said", "")
TURNS = Column("turns", "list<list<string>>", "further turns: [question, answer]", [])
RATERS = Column("raters", "list<string>", "answers of ten people, where the data set has them", [])
OPTIONS = Column("options", "list<string>", "texts of the options A, B, ...", [])
BOXES = Column("boxes", "list<list<float64>>", "right boxes [x1, y1, x2, y2], in 0..1 of the padded square", [])
SIZE = Column("size", "list<int64>", "[width, height] of the picture, where the file says so", [])
QUESTION_ID = Column("question_id", "string", "as published; need not be unique", "")
KIND = Column("kind", "string", "of picture")
PATCHES = Column("patches", "list<uint8>", "what each patch of the picture shows, row by row; 0 is background")

#: Of a task that is drawn here, of one that lies in files, and of a stage-1 corpus.
DRAWN = (ID, IMAGE, INSTRUCTION, ANSWER, REFERENCES, TYPE)
PUBLISHED = (*DRAWN, TURNS, RATERS, OPTIONS, BOXES, SIZE, QUESTION_ID)
ALIGNMENT = (ID, IMAGE, KIND, PATCHES, TURNS)

#: Of those, what is learned from, and what a prediction is judged by: neither reads a picture.
LEARNED = (ID, INSTRUCTION, ANSWER, TURNS)
JUDGED = (ID, ANSWER, REFERENCES, TYPE, RATERS, OPTIONS, BOXES, SIZE)


def features_of(columns: Iterable[Column]) -> Features:
    """The columns as `datasets` names their types."""
    from datasets import Features

    return Features({column.name: _feature(column.type) for column in columns})


def _feature(type_: str) -> Any:
    from datasets import Image, List, Value

    if type_ == "image":
        return Image()
    inner = type_.removeprefix("list<")
    return Value(type_) if inner == type_ else List(_feature(inner.removesuffix(">")))


def write_rows(
    rows: Iterable[Mapping[str, Any]], columns: Sequence[Column], path: Path, with_pictures: bool = False
) -> None:
    """Write `rows` (column -> cell) to the Parquet file `path`, a group of rows at a time.

    Args:
        with_pictures: pack the file as `datasets` packs one that has encoded pictures in its rows: they are not
            compressed again, and pages are cut by their content.

    Raises:
        ValueError: a row lacks a column that each needs; the message names both.
    """
    import pyarrow
    import pyarrow.parquet

    schema = features_of(columns).arrow_schema

    def table_of(group: Sequence[Mapping[str, Any]]) -> Any:
        cells = {column.name: [_cell(row, column) for row in group] for column in columns}
        return pyarrow.table(cells, schema=schema)

    if with_pictures:
        from datasets import Dataset, disable_progress_bars

        disable_progress_bars()
        Dataset(table_of(list(rows))).to_parquet(str(path), batch_size=GROUP_WITH_PICTURES)
        return
    remaining = iter(rows)
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        while group := list(islice(remaining, GROUP)):
            writer.write_table(table_of(group))


def _cell(row: Mapping[str, Any], column: Column) -> Any:
    cell = row.get(column.name, column.default)
    if cell is NEEDED:
        raise ValueError(
            f"row {row.get(ID.name)!r} has no '{column.name}' ({column.meaning}); it has: {', '.join(row)}"
        )
    return cell


def read_columns(path: Path, columns: Sequence[Column]) -> polars.DataFrame:
    """These columns of the Parquet file `path`, in this order; one that the file lacks holds its default in each row.

    Raises:
        ValueError: the file lacks a column that each row needs.
    """
    import polars

    # A path may hold what polars would take for a pattern.
    there = polars.scan_parquet(path, glob=False).collect_schema().names()
    lacking = [column for column in columns if column.name not in there]
    if names := [column.name for column in lacking if column.default is NEEDED]:
        raise ValueError(f"{path} has no column '{names[0]}'; it has: {', '.join(there)}")
    wanted = [column.name for column in columns if column.name in there]
    table = polars.read_parquet(path, columns=wanted, glob=False)
    table = table.with_columns(polars.Series(column.name, [column.default] * len(table)) for column in lacking)
    return table.select(column.name for column in columns)
