"""JSON lists in LLaVA's form: training rows hold conversations, test rows a question and its answer.

What LLaVA's own loader lets pass is let pass here: a leading turn of the model's is dropped, `<image>` may stand
anywhere in a turn and is moved to its front. What it would crash on, or silently learn from, is an error that names the
row.

Example: {"image": "a.jpg", "conversations": [{"from": "human", "value": "What? <image>"},
{"from": "gpt", "value": "a bus"}]} gives {"image": "a.jpg", "instruction": "What?", "answer": "a bus"}.

Example: {"question_id": 7, "text": "Who?", "answer": ["he", "him"]} gives {"question_id": "7", "instruction": "Who?",
"answer": "he", "references": ["he", "him"]}.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lilora.data.image_files import clean_path
from lilora.data.readers.row import IMAGE, Row, RowError, box_in, options_in


def read_list(path: Path) -> list[Any]:
    """The JSON list in `path`.

    Raises:
        ValueError: it is not JSON, or not a list; the message names the file and the line.
    """
    try:
        found = json.loads(path.read_bytes())
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 text: {error.reason} at byte {error.start}; download it again"
        ) from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"{path} is not JSON: {error.msg} at {where}; download it again") from error
    except RecursionError:
        raise ValueError(f"{path} is nested too deep to be a list of rows; download it again") from None
    if not isinstance(found, list):
        raise ValueError(f"{path} holds {_name(found)}, not a list of rows: it is not in LLaVA's form")
    return found


def rows(path: Path, split: str) -> Iterator[Row | tuple[int, RowError]]:
    """The rows of `path`, or (number, what is wrong).

    Args:
        split: "train" for conversations, "test" for questions.

    Raises:
        ValueError: the file as a whole is wrong; see `read_list`.
    """
    parse = train_row if split == "train" else test_row
    for number, raw in enumerate(read_list(path)):
        try:
            yield parse(raw, number)
        except RowError as error:
            yield number, error


def train_row(raw: Any, number: int) -> Row:
    """A row of {"conversations": [{"from": "human"|"gpt", "value": str}, ...], "image"?: str, "id"?: str}.

    Raises:
        RowError: it is not of this form.
    """
    turns = _turns(_object(raw).get("conversations"))
    image = _image(raw)
    tokens = sum(text.count(IMAGE) for text in turns)
    if tokens and image is None:
        raise RowError("malformed", f"a turn has {IMAGE}, but the row names no image")
    if tokens > 1:
        raise RowError("malformed", f"{tokens} times {IMAGE}: one picture a row")
    texts = [text.replace(IMAGE, "").strip() for text in turns]
    pairs = [[texts[place], texts[place + 1]] for place in range(0, len(texts), 2)]
    instruction, answer = pairs[0]
    return Row(
        number=number,
        image=image,
        instruction=instruction,
        answer=answer,
        references=[answer],
        type=_text_or_empty(raw, "question_type", "answer_type"),
        turns=pairs[1:],
        options=options_in(instruction),
        question_id=_identity(raw.get("id")),
    )


def test_row(raw: Any, number: int) -> Row:
    """A row of {"question_id": ..., "text": str, "image"?: str, "answer"?: ...}; "answer_bbox" and "size" for boxes.

    Raises:
        RowError: it is not of this form.
    """
    text = _object(raw).get("text")
    if not isinstance(text, str):
        raise RowError("malformed", f"'text' is {_name(text)}, not a string")
    if "question_id" not in raw:
        raise RowError("malformed", "no 'question_id'")
    row = Row(
        number=number,
        image=_image(raw),
        instruction=text.replace(IMAGE, "").strip(),
        type=_text_or_empty(raw, "question_type", "answer_type"),
        options=options_in(text),
        question_id=_identity(raw["question_id"]),
    )
    if "answer_bbox" in raw:
        _put_boxes(row, raw)
    else:
        row.references = _answers(raw.get("answer"))
        row.raters = _answers(raw.get("answers"))
        row.references = row.references or list(dict.fromkeys(row.raters))
    row.answer = row.references[0] if row.references else ""
    return row


def _put_boxes(row: Row, raw: dict[str, Any]) -> None:
    value = raw["answer_bbox"]
    several = isinstance(value, list) and all(isinstance(item, (list, str)) for item in value)
    values = value if several and value else [value]
    row.boxes = [box_in(item) for item in values]
    row.references = [item if isinstance(item, str) else json.dumps(item) for item in values]
    size = raw.get("size")
    if isinstance(size, dict):
        size = [size.get("width"), size.get("height")]
    if isinstance(size, list) and len(size) == 2 and all(isinstance(item, (int, float)) and item > 0 for item in size):
        row.size = [int(item) for item in size]
    elif size is not None:
        raise RowError("malformed", f"'size' is {size!r}: it must be [width, height]")


def _answers(value: Any) -> list[str]:
    """Right answers: a string, a number, a list of them, or a list of {"answer": ...}."""
    if value is None:
        return []
    found = []
    for item in value if isinstance(value, list) else [value]:
        text = item.get("answer") if isinstance(item, dict) else item
        if isinstance(text, bool) or not isinstance(text, (str, int, float)):
            raise RowError("malformed", f"'answer' holds {_name(text)}: it must be a string or a list of strings")
        found.append(str(text).strip())
    return found


def _turns(conversation: Any) -> list[str]:
    if not isinstance(conversation, list):
        raise RowError("malformed", f"'conversations' is {_name(conversation)}, not a list")
    said = []
    for turn in conversation:
        if not isinstance(turn, dict) or not isinstance(turn.get("value"), str) or turn.get("from") not in _ROLES:
            raise RowError("malformed", "a turn must be {'from': 'human' or 'gpt', 'value': text}")
        said.append((turn["from"], turn["value"]))
    if said and said[0][0] == "gpt":
        said = said[1:]
    if not said or len(said) % 2 or any(role != _ROLES[place % 2] for place, (role, _) in enumerate(said)):
        raise RowError("malformed", "turns must be human, gpt, human, gpt, ... and end with gpt")
    return [text for _, text in said]


_ROLES = ("human", "gpt")


def _object(raw: Any) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise RowError("malformed", f"it is {_name(raw)}, not an object")
    return raw


def _image(raw: dict[str, Any]) -> str | None:
    value = raw.get("image")
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise RowError("malformed", f"'image' is {_name(value)}, not a path")
    try:
        return clean_path(value)
    except ValueError as error:
        raise RowError("path", str(error)) from error


def _identity(value: Any) -> str:
    return str(value) if isinstance(value, (str, int)) else ""


def _text_or_empty(raw: dict[str, Any], *names: str) -> str:
    return next((raw[name] for name in names if isinstance(raw.get(name), str)), "")


def _name(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "nothing"}
    return kinds.get(type(value), "a number")
