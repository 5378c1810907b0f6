"""Tables: folders that `datasets` saved, and Parquet files. Pictures may be in the rows, or be paths.

Columns, or what a description calls them: question (or conversations, as in LLaVA's form), answer (a text, or a list of
right ones), image, type, id. What else a table holds is left alone.

Example: {"id": 7, "question": "Who?", "answer": ["he", "him"], "image": "a.jpg"} gives {"question_id": "7",
"instruction": "Who?", "answer": "he", "references": ["he", "him"], "image": "a.jpg"}.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lilora.data.readers.llava_json import identity_text, test_row, train_row
from lilora.data.readers.row import Row, RowError

OURS = ("question", "answer", "image", "type", "id", "conversations")


def rows(path: Path, split: str, columns: Mapping[str, str]) -> Iterator[Row | tuple[int, RowError]]:
    """The rows of the table at `path`, or (number, what is wrong).

    Args:
        split: "train" or "test"; in training the first of several answers is learned.
        columns: ours -> the table's, where the names differ.

    Raises:
        ValueError: the table cannot be read, or has no column for the question.
    """
    table = read_table(path)
    names = {ours: columns.get(ours, ours) for ours in OURS}
    there = {ours: name for ours, name in names.items() if name in table.column_names}
    if not {"question", "conversations"} & set(there):
        raise ValueError(
            f"{path} has no column '{names['question']}'; it has: {', '.join(table.column_names)}. "
            'Name it in the description: columns = {question = "...", answer = "..."}'
        )
    light = table.select([name for ours, name in there.items() if ours != "image"])
    image = table.column(there["image"]) if "image" in there else None
    for start in range(0, light.num_rows, 4096):
        for offset, cells in enumerate(light.slice(start, 4096).to_pylist()):
            number = start + offset
            raw = {ours: cells[name] for ours, name in there.items() if ours != "image"}
            try:
                yield _row(raw, image, number, split)
            except RowError as error:
                yield number, error


def read_table(path: Path) -> Any:
    """The Arrow table of a Parquet file, or, mapped into memory, of a folder that `datasets` saved.

    Raises:
        ValueError: it is neither.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        if not path.is_dir():
            return pyarrow.parquet.read_table(path)
        from datasets import Dataset, load_from_disk

        data = load_from_disk(str(path))
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise ValueError(f"{path} is no table: {error}") from error
    if not isinstance(data, Dataset):
        splits = ", ".join(str(name) for name in data)
        raise ValueError(f"{path} holds several splits ({splits}): name the folder of one, as in {path.name}/train")
    return data.with_format("arrow")[:]


def _row(raw: dict[str, Any], image: Any, number: int, split: str) -> Row:
    if raw.get("conversations") is not None:
        row = train_row({"conversations": raw["conversations"]}, number)
    else:
        given = {"text": raw.get("question"), "question_id": raw.get("id"), "answer": raw.get("answer")}
        row = test_row(given, number)
    row.question_id = identity_text(raw.get("id"))
    row.type = str(raw.get("type") or "")
    if image is not None and image[number].is_valid:
        _put_image(row, image, number)
    if split == "train" and not row.references:
        raise RowError("malformed", "no answer to learn")
    return row


def _put_image(row: Row, image: Any, number: int) -> None:
    import pyarrow

    from lilora.data.pictures.files import clean_path

    cell = image[number]
    if pyarrow.types.is_struct(image.type):
        names = {image.type.field(place).name for place in range(image.type.num_fields)}
        if "bytes" in names and cell["bytes"].is_valid:
            row.picture = partial(_bytes_at, image, number)
            return
        cell = cell["path"]
    elif pyarrow.types.is_binary(image.type) or pyarrow.types.is_large_binary(image.type):
        row.picture = partial(_plain_bytes_at, image, number)
        return
    value = cell.as_py()
    if not isinstance(value, str):
        raise RowError("malformed", "'image' is neither a picture nor a path")
    try:
        row.image = clean_path(value)
    except ValueError as error:
        raise RowError("path", str(error)) from error


def _bytes_at(image: Any, number: int) -> bytes:
    return image[number]["bytes"].as_py()


def _plain_bytes_at(image: Any, number: int) -> bytes:
    return image[number].as_py()
