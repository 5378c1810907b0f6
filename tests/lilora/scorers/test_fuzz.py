"""Published rules against plain implementations of them, on strings that are drawn to lie near the right answers."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from lilora.core import registry
from lilora.scorers import Truth

NUM = 2000
PIECES = (
    "A", "B", "a", "b", "cat", "Cat", "CAT", "catamaran", "yes", "No", "ten", "Ten", "red", "Unanswerable", "the", "is",
    ".", "..", ". ", ",", " ", "  ", "\n", "-", "_", "(", ")", "", "\u00e9", "\u00df", "\ufb06", "7", "0.5", "[", "]",
)  # fmt: skip
RIGHT = ("A", "B", "cat", "Cat", "yes", "no", "ten", "red cat", "stra\u00dfe", "7", "unanswerable")


def drawn(seed: str) -> list[tuple[str, str]]:
    rng = random.Random(seed)
    found = []
    for _ in range(NUM):
        right = rng.choice(RIGHT)
        pieces = [rng.choice((*PIECES, right, right.upper(), right[:2])) for _ in range(rng.randrange(5))]
        found.append((rng.choice(("", " ")).join(pieces), right))
    return found


def in_one_another(text: str, right: str) -> bool:
    return right in text or text in right


def letter_of(text: str) -> str:
    """CoIN's: the text; what stands before ". "; the first character between word boundaries."""
    alphabet = [chr(code) for code in range(ord("A"), ord("Z") + 1)]
    if text in alphabet:
        return text
    if len(text) >= 3 and text[0] in alphabet and text[1:3] == ". ":
        return text[0]
    for place, letter in enumerate(text):
        before, after = text[place - 1 : place] if place else "", text[place + 1 : place + 2]
        if is_word(letter) and not is_word(before) and not is_word(after):
            return letter.upper()
    return "FAILED"


def is_word(letter: str) -> bool:
    return letter != "" and (letter.isalnum() or letter == "_")


PUBLISHED: dict[str, Callable[[str, str], bool]] = {
    "imagenet": in_one_another,
    "imagenet_cvit": lambda text, right: in_one_another(text.upper(), right.upper()),
    "vqav2": lambda text, right: text.upper() == right.upper(),
    "ucit": lambda text, right: text.upper() == right.upper(),
    "ocrvqa": lambda text, right: text.lower() == right.lower() and "Unanswerable" not in text,
    "gqa": lambda text, right: text.rstrip(".").lower() == right,
    "scienceqa": lambda text, right: letter_of(text) == right,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_rule_is_the_plain_one_on_strings_near_the_answers(name: str) -> None:
    pairs = drawn(name)
    scorer = registry.load("scorers", name).paper
    found = scorer.score([text for text, _ in pairs], [Truth((right,)) for _, right in pairs])
    # The answers that are scored have lost their outer white space when they were generated.
    wanted = [PUBLISHED[name](text.strip(), right) for text, right in pairs]
    wrong = [pair for pair, item, right in zip(pairs, found, wanted, strict=True) if item.main != float(right)]
    assert not wrong, wrong[:5]
    assert 0.01 < sum(wanted) / NUM < 0.99, "both outcomes were tried"


def plain_iou_is_above_half(text: str, right: list[float], side: int) -> bool:
    numbers = text.replace("[", "").replace("]", "")[1:-1].split(",")
    try:
        x1, y1, x2, y2 = (float(number) * side for number in numbers)
    except ValueError:
        return False
    u1, v1, u2, v2 = (number * side for number in right)
    both = max(0, min(x2, u2) - max(x1, u1)) * max(0, min(y2, v2) - max(y1, v1))
    union = (x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - both
    return union > 0 and both / union > 0.5


def test_boxes_near_an_iou_of_a_half_are_judged_as_published() -> None:
    rng = random.Random("boxes")
    scorer = registry.load("scorers", "grounding").paper
    texts, truths, wanted = [], [], []
    for _ in range(NUM):
        x, y = rng.randrange(50) / 100, rng.randrange(50) / 100
        width, height = 2 * rng.randrange(1, 25) / 100, rng.randrange(2, 50) / 100
        right = [x, y, round(x + width / 2 + rng.choice((0, 0, 0.01, -0.01)), 2), round(y + height, 2)]
        text = f"[{x:.2f}, {y:.2f}, {x + width:.2f}, {y + height:.2f}0]"
        text = text.replace(rng.choice((",", "]", "xx", "xx")), rng.choice(("", ",", ";")))
        side = rng.choice((1, 427, 500, 640))
        if right[2] <= right[0]:
            continue
        texts.append(text)
        truths.append(Truth((str(right),), boxes=(tuple(right),), size=(side, side // 2)))
        wanted.append(plain_iou_is_above_half(text, right, side))
    assert [item.main for item in scorer.score(texts, truths)] == [float(right) for right in wanted]
    assert 0.05 < sum(wanted) / len(wanted) < 0.95
