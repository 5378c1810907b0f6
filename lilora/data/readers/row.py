"""A row of a task as readers give it, and what can be wrong with one.

Rows keep their number in the published file, so that a message can name it, and their names do not change when a
subset is taken.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

IMAGE = "<image>"
#: One option in a question: "A. a bus", "(A) a bus", "A) a bus", at the start of a line.
_OPTION = re.compile(r"^[ \t]*\(?([A-Z])[).:][ \t]+(\S.*)$", re.MULTILINE)
#: Full-width letters and punctuation (U+FF01 to U+FF5E), as Chinese and Japanese texts have them -> the ordinary ones.
_NARROW = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
#: What marks an option anywhere in a text: "A. ", "(a) ", "A、"; behind the mark comes a space or no ASCII letter.
_MARK = re.compile(r"(?<![^\W\u2e80-\U0003134f])(?<![.'-])\(?([A-Za-z])(?:[).:](?=[ \t]|[^\x00-\x7f])|、)[ \t]*")
#: An answer that is a letter, and one that begins with an option's mark.
_LETTER = re.compile(r"\(?([A-Za-z])[).:]?")
_LEADING = re.compile(r"\(?([A-Za-z])(?:[).:](?=\s|[^\x00-\x7f])|、)")
_FOUR = re.compile(r"[\s\[({]*(-?[\d.]+(?:\s*,\s*-?[\d.]+){3})[\s\])}.]*")
#: What stands for a picture in some model's prompts. In a row's words it is a picture's place or text: nobody can tell.
PICTURE_MARKS = (IMAGE, "<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
#: What ends an answer for some model. Behind an answer it is another template's, or text; elsewhere it is text.
END_MARKS = ("</s>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<end_of_utterance>", "<|end|>", "<eos>")


class RowError(ValueError):
    """A row that cannot be used; `kind` is one of the problems of `lilora.data.check`."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(slots=True)
class Row:
    """One sample. What is not listed here is the column of the same name (`lilora.data.columns`).

    Attributes:
        number: in its file, from 0.
        image: path below the image folder; None without one.
        picture: reads the encoded picture, where it is in the source itself.
    """

    number: int
    image: str | None
    instruction: str
    answer: str = ""
    references: list[str] = field(default_factory=list)
    type: str = ""
    turns: list[list[str]] = field(default_factory=list)
    raters: list[str] = field(default_factory=list)
    options: list[str] = field(default_factory=list)
    boxes: list[list[float]] = field(default_factory=list)
    size: list[int] = field(default_factory=list)
    question_id: str = ""
    picture: Callable[[], bytes] | None = None


def options_in(text: str, answer: str = "") -> list[str]:
    """The options that a question lists, if they are lettered A, B, C, ... without a gap; else none.

    One a line with a capital and a mark ("A. a bus", "(A) a bus") they are options whatever the answer. All on one
    line, with small letters, or with marks as Chinese has them ("A、...", "（A）..."), they may be anything, as in
    "A. Smith and B. Jones": they are options where `answer` is one of them.
    """
    found = _OPTION.findall(text)
    letters = [letter for letter, _ in found]
    complete = len(found) > 1 and letters == [chr(ord("A") + place) for place in range(len(found))]
    if complete:
        return [option.strip() for _, option in found]
    listed = _listed(text.translate(_NARROW))
    return listed if option_of(answer, listed) is not None else []


def _listed(text: str) -> list[str]:
    """What stands behind the marks A, B, C, ... of one case, up to the next mark or the line's end."""
    marks: list[re.Match[str]] = []
    for mark in _MARK.finditer(text):
        if marks and mark[1] == chr(ord(marks[0][1]) + len(marks)):
            marks.append(mark)
        elif mark[1] in "Aa" and len(marks) < 2:
            marks = [mark]
        elif marks:
            return []
    stops = [mark.start() for mark in marks[1:]] + [len(text)]
    texts = [text[mark.end() : stop].partition("\n")[0] for mark, stop in zip(marks, stops, strict=False)]
    found = [text.strip().rstrip(",;、/|").rstrip() for text in texts]
    return found if len(found) > 1 and all(found) else []


def option_of(answer: str, options: list[str]) -> int | None:
    """The place in `options` of the one that `answer` names, by letter ("B", "(b)", "B、") or text; None: it is none.

    A capital is a letter before it is a text.
    """
    given = answer.translate(_NARROW).strip().rstrip(".。、")
    texts = [option.translate(_NARROW).strip().rstrip(".。").casefold() for option in options]
    alone, leading = _LETTER.fullmatch(given), _LEADING.match(given)
    found = alone or leading
    letter = found[1] if found else ""
    place = ord(letter.upper()) - ord("A") if letter else len(options)
    if given.casefold() in texts and not (alone and letter.isupper() and place < len(options)):
        return texts.index(given.casefold())
    return place if place < len(options) else None


def outside_options(answer: str, options: list[str]) -> bool:
    """Whether `answer` is neither the letter nor the text of one of `options`; never, where there are none."""
    return bool(options) and option_of(answer, options) is None


def check_words(asked: list[str], answers: list[str]) -> None:
    """Refuse what a model's template may take for its own: a picture's place, or the end of an answer behind one.

    Any other special token in a row's words ("</s>" in a question, "<s>", "<unk>") is text, and is learned and asked as
    text (`lilora.model.encoder`).

    Raises:
        RowError: a text has one of `PICTURE_MARKS`, or an answer ends with one of `END_MARKS`.
    """
    for text in (*asked, *answers):
        for mark in PICTURE_MARKS:
            if mark in text:
                raise RowError("malformed", f"{mark} is among its words: it stands for a picture; take it out")
    for text in answers:
        for mark in END_MARKS:
            if text.rstrip().endswith(mark):
                raise RowError("malformed", f"an answer ends with {mark}: the template puts an end there; take it out")


def box_in(value: Any) -> list[float]:
    """The four numbers of "[x1, y1, x2, y2]" or of a list.

    Raises:
        RowError: they are not four numbers in 0..1 with x1 < x2 and y1 < y2; the message says what they look like.
    """
    if isinstance(value, str):
        numbers: Any = re.findall(r"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?", value)
    else:
        numbers = value if isinstance(value, list) else []
    try:
        box = [float(number) for number in numbers]
    except (TypeError, ValueError):
        box = []
    if len(box) != 4 or not all(0 <= number <= 1 for number in box) or box[0] >= box[2] or box[1] >= box[3]:
        looks = _other_form(box)
        must = "it must be [x1, y1, x2, y2] in 0..1 with x1 < x2 and y1 < y2"
        raise RowError("malformed", f"box {value!r}{f' looks like {looks}' if looks else ''}: {must}")
    return box


def check_boxes(answers: list[str]) -> None:
    """Refuse answers of a grounding task to learn that are boxes in another form; what is no box is left alone.

    Raises:
        RowError: one looks like pixels, or like [x, y, width, height].
    """
    for text in answers:
        four = _FOUR.fullmatch(text)
        try:
            looks = _other_form([float(number) for number in four[1].split(",")]) if four else ""
        except ValueError:
            continue
        if looks:
            raise RowError("malformed", f"box {text!r} looks like {looks}: it must be [x1, y1, x2, y2] in 0..1")


def _other_form(box: list[float]) -> str:
    """The form that four numbers are in, with the remedy, where it is not corners in 0..1; "" where it may be."""
    if len(box) != 4 or not all(number >= 0 for number in box):
        return ""
    if max(box) > 1:
        return "pixels, or thousandths (divide by the padded square's side, or by 1000)"
    return "[x, y, width, height] (write [x, y, x + width, y + height])" if box[0] > box[2] or box[1] > box[3] else ""
