"""JSON lists in LLaVA's form: training rows hold conversations, test rows a question and its answer.

What LLaVA's own loader lets pass is let pass here: a leading turn of the model's is dropped, `<image>` may stand
anywhere in a question and is moved to its front. What it would crash on, or silently learn from, is an error that names
the row: so are a picture's place in an answer, other models' picture tokens, and an answer that ends with an end token.
Every other special token in a row's words is text (`lilora.data.readers.row.check_words`).

Example: {"image": "a.jpg", "conversations": [{"from": "human", "value": "What? <image>"},
{"from": "gpt", "value": "a bus"}]} gives {"image": "a.jpg", "instruction": "What?", "answer": "a bus"}.

Example: {"question_id": 7, "text": "Who?", "answer": ["he", "him"]} gives {"question_id": "7", "instruction": "Who?",
"answer": "he", "references": ["he", "him"]}.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lilora.data.pictures.files import clean_path
from lilora.data.readers.json_list import name_of, number_text, read_list
from lilora.data.readers.row import IMAGE, Row, RowError, box_in, check_words, options_in


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
            if isinstance(raw, RowError):
                raise raw
            yield parse(raw, number)
        except RowError as error:
            yield number, error


def train_row(raw: Any, number: int) -> Row:
    """A row of {"conversations": [{"from": "human"|"gpt", "value": str}, ...], "image"?: str, "id"?: str}.

    Also read: "messages" of {"role": "user"|"assistant", "content": str}, and "images" with one path in it.

    Raises:
        RowError: it is not of this form.
    """
    turns = _turns(_object(raw).get("conversations", raw.get("messages")))
    image = _image(raw)
    tokens = sum(text.count(IMAGE) for text in turns)
    if tokens and image is None:
        raise RowError("malformed", f"a turn has {IMAGE}, but the row names no image")
    if any(IMAGE in text for text in turns[1::2]):
        raise RowError("malformed", f"an answer has {IMAGE}: a picture belongs to a question")
    if tokens > 1:
        raise RowError("malformed", f"{tokens} times {IMAGE}: one picture a row")
    texts = [text.replace(IMAGE, "").strip() for text in turns]
    pairs = [[texts[place], texts[place + 1]] for place in range(0, len(texts), 2)]
    check_words(texts[::2], texts[1::2])
    instruction, answer = pairs[0]
    return Row(
        number=number,
        image=image,
        instruction=instruction,
        answer=answer,
        references=[answer],
        type=_text_or_empty(raw, "question_type", "answer_type"),
        turns=pairs[1:],
        options=options_in(instruction, answer),
        question_id=identity_text(raw.get("id")),
    )


def test_row(raw: Any, number: int) -> Row:
    """A row of {"question_id": ..., "text": str, "image"?: str, "answer"?: ...}; "answer_bbox" and "size" for boxes.

    Raises:
        RowError: it is not of this form.
    """
    text = _object(raw).get("text")
    if not isinstance(text, str):
        raise RowError("malformed", f"'text' is {name_of(text)}, not a string")
    if text.count(IMAGE) > 1:
        raise RowError("malformed", f"{text.count(IMAGE)} times {IMAGE}: one picture a row")
    if "question_id" not in raw:
        raise RowError("malformed", "no 'question_id'")
    row = Row(
        number=number,
        image=_image(raw),
        instruction=text.replace(IMAGE, "").strip(),
        type=_text_or_empty(raw, "question_type", "answer_type"),
        question_id=identity_text(raw["question_id"]),
    )
    if "answer_bbox" in raw:
        _put_boxes(row, raw)
    else:
        row.references = _answers(raw.get("answer"))
        row.raters = _answers(raw.get("answers"), may_be_empty=True)
        row.references = row.references or list(dict.fromkeys(row.raters))
    row.answer = row.references[0] if row.references else ""
    row.options = options_in(row.instruction, row.answer)
    check_words([row.instruction], row.references)
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
    if isinstance(size, list) and len(size) == 2 and all(number_text(item) and item > 0 for item in size):
        row.size = [int(item) for item in size]
    elif size is not None:
        raise RowError("malformed", f"'size' is {size!r}: it must be [width, height]")


def _answers(value: Any, may_be_empty: bool = False) -> list[str]:
    """Right answers: a string, a number, a list of them, or a list of {"answer": ...}; "" is no answer.

    Raises:
        RowError: one is none of these, or is empty beside others: whatever is predicted would contain it.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return []
    found = []
    for item in value if isinstance(value, list) else [value]:
        text = item.get("answer") if isinstance(item, dict) else item
        if isinstance(text, bool) or not isinstance(text, (str, int, float)) or name_of(text) in _NO_NUMBERS:
            raise RowError("malformed", f"'answer' holds {name_of(text)}: it must be a string or a list of strings")
        found.append(str(text).strip())
    if "" in found and not may_be_empty:
        raise RowError("answer", "one of its right answers is empty")
    return found


#: Of `name_of`.
_NO_NUMBERS = ("NaN", "infinity")


def _turns(conversation: Any) -> list[str]:
    if not isinstance(conversation, list):
        raise RowError("malformed", f"'conversations' is {name_of(conversation)}, not a list")
    said = [_turn(turn, place) for place, turn in enumerate(conversation)]
    if said and said[0][0] == "gpt":
        said = said[1:]
    if said and said[-1][0] == "human":
        raise RowError("malformed", f"turn {len(conversation) - 1} is a question without an answer")
    if not said or any(role != ("human", "gpt")[place % 2] for place, (role, _) in enumerate(said)):
        raise RowError("malformed", "turns must be human, gpt, human, gpt, ... and end with gpt")
    return [text for _, text in said]


def _turn(turn: Any, place: int) -> tuple[str, str]:
    """(role, text) of {"from", "value"} or {"role", "content"}; a number is read as its text."""
    if not isinstance(turn, dict):
        raise RowError("malformed", f"turn {place} is {name_of(turn)}: it must be {_FORM}")
    role, value = (turn.get(one, turn.get(other)) for one, other in (("from", "role"), ("value", "content")))
    if not isinstance(role, str) or role not in ROLES:
        raise RowError("malformed", f"turn {place} is from {role!r}: a turn must be {_FORM}")
    text = value if isinstance(value, str) else number_text(value)
    if text is None:
        raise RowError("malformed", f"turn {place} says {name_of(value)}: it must be {_FORM}")
    return ROLES[role], text


_FORM = "{'from': 'human' or 'gpt', 'value': text}"
#: What data sets call the two who speak. What a "system" says is no turn of theirs, and is refused.
ROLES = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt"}


def _object(raw: Any) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise RowError("malformed", f"it is {name_of(raw)}, not an object")
    return raw


def _image(raw: dict[str, Any]) -> str | None:
    """The one picture that "image" or "images" names, as a path or a list of one."""
    named: list[Any] = []
    for value in (raw.get("image"), raw.get("images")):
        for one in value if isinstance(value, list) else [value]:
            if one not in (None, "") and one not in named:
                named.append(one)
    if not named:
        return None
    if len(named) > 1:
        raise RowError("malformed", f"it names {len(named)} pictures: one picture a row")
    value = named[0]
    if not isinstance(value, str):
        raise RowError("malformed", f"'image' is {name_of(value)}, not a path")
    if value.startswith("data:") or len(value) > LONGEST_PATH:
        raise RowError(
            "path",
            f"'image' is no path but {len(value):,} characters, {value[:24]!r}...: write the picture to a file, and "
            "put its path here",
        )
    try:
        return clean_path(value)
    except ValueError as error:
        raise RowError("path", str(error)) from error


#: Characters of a path, at most; more is a picture in letters (base64).
LONGEST_PATH = 4096


def identity_text(value: Any) -> str:
    """An id as text; a number as people write it, so 17.0 and 17 are one; "" for what is none.

    Raises:
        RowError: it is NaN or infinite.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise RowError("malformed", f"its id is {name_of(value)}")
    return value if isinstance(value, str) else number_text(value) or ""


def _text_or_empty(raw: dict[str, Any], *names: str) -> str:
    return next((raw[name] for name in names if isinstance(raw.get(name), str)), "")
