"""Grounding (referring expressions): IoU > 0.5 with the right box, on the image padded to a square.

paper: CoIN's evaluator, which takes the brackets off and then the first and the last character: it reads
"[0.12,0.3,0.5,0.95]" as .12, 0.3, 0.5, 0.9, and cannot read "[0.1,0.2,0.5,1]". What it cannot read is wrong. It
multiplies both boxes by the longer side of the picture, so that a half may come out above or below by rounding; where
the data have no size, ours multiplies by 1.
standard: four numbers in square brackets, read as they are; exact arithmetic, so an IoU of a half is wrong.

Example: "[0.1,0.2,0.5,1]" for "[0.1, 0.2, 0.5, 1]": paper 0, 1, 1; standard 1, 1, 1.
"""

from __future__ import annotations

from collections.abc import Sequence

from lilora.measures.boxes import find_box, iou, overlaps, parse_box
from lilora.scorers import ItemScore, Truth, each, two


def right_boxes(truth: Truth) -> list[Sequence[float]]:
    """The right boxes: numbers where the data have them, else read off the references.

    Raises:
        ValueError: there is none.
    """
    # A list with a box in it, "[[x1, y1, x2, y2]]", is that box.
    texts = [text.replace("[[", "[").replace("]]", "]") for text in truth.references]
    read = [parse_box(text) for text in texts] if not truth.boxes else []
    boxes: list[Sequence[float]] = [*truth.boxes, *(box for box in read if box is not None)]
    if not boxes:
        raise ValueError(f"no right box in {truth.references!r}: write it as '[x1, y1, x2, y2]'")
    return boxes


def read_as_published(prediction: str) -> list[float] | None:
    """The box as CoIN's evaluator reads it; None if it cannot."""
    text = prediction.strip().replace("[", "").replace("]", "")
    try:
        numbers = [float(part) for part in text[1:-1].split(",")]
    except ValueError:
        return None
    return numbers if len(numbers) == 4 else None


def _hit(box: Sequence[float] | None, boxes: Sequence[Sequence[float]]) -> float:
    return float(box is not None and any(overlaps(box, right) for right in boxes))


def _hit_as_published(box: Sequence[float] | None, truth: Truth, boxes: Sequence[Sequence[float]]) -> float:
    side = max(truth.size, default=1)

    def scaled(numbers: Sequence[float]) -> list[float]:
        return [number * side for number in numbers]

    return float(box is not None and any(iou(scaled(box), scaled(right)) > 0.5 for right in boxes))


def published(prediction: str, truth: Truth) -> ItemScore:
    """main: the box as published; strict: the text is a box; lenient: the first box in the text."""
    boxes = right_boxes(truth)
    strict = _hit(parse_box(prediction), boxes)
    lenient = max(strict, _hit(find_box(prediction), boxes))
    return ItemScore(_hit_as_published(read_as_published(prediction), truth, boxes), strict, lenient)


def overlap(prediction: str, truth: Truth) -> ItemScore:
    """main and strict: the text is a box; lenient: the first box in the text."""
    boxes = right_boxes(truth)
    strict = _hit(parse_box(prediction), boxes)
    return ItemScore(strict, strict, max(strict, _hit(find_box(prediction), boxes)))


SCORER = two("grounding", paper=each(published), standard=each(overlap), versions=(2, 2))
