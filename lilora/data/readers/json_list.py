"""Lists of rows in JSON files: a list, or JSON Lines with a row a line, with or without a byte-order mark.

What JSON does not know (NaN, half a character) is read, so that the row that has it can be named by its reader.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from lilora.data.readers.row import RowError

#: How half of a character that takes two is spelled: \ud83d. Such text cannot be written as UTF-8.
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")
_IS_HALF = "it holds half a character (a lone surrogate, as \\ud83d without its other half)"


def read_list(path: Path) -> list[Any]:
    """The rows in `path`; one that holds half a character is a `RowError` in their place.

    Raises:
        ValueError: it is neither a JSON list nor JSON Lines; the message names the file and the line.
    """
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 text: {error.reason} at byte {error.start}; download it again"
        ) from error
    try:
        found = _lines(path, text) if path.suffix == ".jsonl" else json.loads(text)
    except json.JSONDecodeError as error:
        # A second value behind the first, and each line one: JSON Lines under another ending.
        if error.msg != "Extra data" or not text.lstrip().startswith("{"):
            where = f"line {error.lineno}, column {error.colno}"
            raise ValueError(f"{path} is not JSON: {error.msg} at {where}; download it again") from error
        found = _lines(path, text)
    except RecursionError:
        raise ValueError(f"{path} is nested too deep to be a list of rows; download it again") from None
    except ValueError as error:
        raise ValueError(f"{path} is not JSON that can be read: {error}; download it again") from error
    if not isinstance(found, list):
        raise ValueError(f"{path} holds {name_of(found)}, not a list of rows: it is not in LLaVA's form")
    return [_whole(row) for row in found] if _HALF.search(data) else found


def read_value(path: Path) -> Any:
    """What is in the JSON file `path`.

    Raises:
        ValueError: it is not JSON in UTF-8, or holds half a character.
    """
    data = path.read_bytes()
    found = json.loads(data.decode("utf-8-sig"))
    if _HALF.search(data) and isinstance(_whole(found), RowError):
        raise ValueError(_IS_HALF)
    return found


def _lines(path: Path, text: str) -> list[Any]:
    """A value a line; a line break inside a text is spelled \\n in JSON, so lines end at "\\n" alone."""
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path} is not JSON Lines: {error.msg} at line {number}, column {error.colno}; download it again"
            ) from error
    return rows


def _whole(row: Any) -> Any:
    try:
        json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return RowError("malformed", _IS_HALF)
    return row


def number_text(value: Any) -> str | None:
    """A number as people write it, 17.0 as "17"; None for what is none, NaN and true and false among it."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return str(int(value)) if value == int(value) else str(value)


def name_of(value: Any) -> str:
    """What a JSON value is, in words."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "infinity"
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "nothing"}
    return kinds.get(type(value), "a number")
