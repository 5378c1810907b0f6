"""Soft scores and CIDEr against plain implementations of the published rules, on drawn raters, answers and captions."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable

import numpy
import pytest

from lilora.core import registry
from lilora.measures import vqa
from lilora.scorers import Truth

NUM = 2000
WORDS = (
    "a", "The", "an", "none", "Two", "10", "1,000", "2,5 kg", "u.s.", "3.5", "dont", "it's", "dog's", "Yes", "no",
    "what?", "well-known", "(red)", "red", "red/blue", "stop.", "x;", ";x", "a\nb", "\tc", "",
)  # fmt: skip
SPOKEN = (
    "a", "man", "dog", "red", "hat", "runs", "Sits", "on", "the", "grass", "street", "two", "people",
    ".", ",", "bicycle", "sign", "with", "at",
)  # fmt: skip
MARKS = ';/[]"{}()=+\\_-><@`,?!'
NAMES = ("none", "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMERALS = dict(zip(NAMES, ("0", *map(str, range(11))), strict=True))


def plain_vqa(text: str, pythia: bool) -> str:
    """The VQA evaluation's steps one after another, a character at a time; `pythia`: with those of TextVQA before."""
    if pythia:
        text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = text.replace("\n", " ").replace("\t", " ").strip()
    within = any(
        text[place] == "," and text[place - 1].isdigit() and text[place + 1].isdigit()
        for place in range(1, len(text) - 1)
    )
    out = text
    for mark in MARKS:
        if mark + " " in text or " " + mark in text or within:
            out = out.replace(mark, "")
        else:
            out = out.replace(mark, " ")
    kept = [
        letter
        for place, letter in enumerate(out)
        if letter != "." or (place + 1 < len(out) and out[place + 1].isdigit())
    ]
    words = []
    for word in "".join(kept).lower().split():
        word = NUMERALS.get(word, word)
        if word not in ("a", "an", "the"):
            words.append(vqa._CONTRACTIONS.get(word, word))
    return " ".join(words)


def left_one_out(text: str, raters: list[str]) -> float:
    scores = []
    for place in range(len(raters)):
        others = raters[:place] + raters[place + 1 :]
        scores.append(min(1.0, others.count(text) / 3))
    return sum(scores) / len(scores)


def phrase(rng: random.Random) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(rng.choice((1, 1, 2, 3))))


@pytest.mark.parametrize(
    ("name", "version", "pythia"),
    [("textvqa", "paper", True), ("textvqa", "standard", False), ("vqav2", "standard", False)],
)
def test_the_soft_score_is_the_plain_one(name: str, version: str, pythia: bool) -> None:
    rng = random.Random(f"{name} {version}")
    scorer = getattr(registry.load("scorers", name), version)
    for _ in range(NUM):
        kinds = [phrase(rng) for _ in range(rng.randrange(1, 4))]
        raters = [rng.choice(kinds) for _ in range(10)]
        text = rng.choice([*kinds, phrase(rng), rng.choice(kinds).upper()])
        [item] = scorer.score([text], [Truth((raters[0],), tuple(raters))])
        wanted = left_one_out(plain_vqa(text, pythia), [plain_vqa(rater, pythia) for rater in raters])
        if version == "standard" and not text.strip():
            wanted = 0.0
        assert item.main == pytest.approx(wanted, abs=1e-12), (text, raters)


def grams(words: list[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]


def vector(words: list[str], n: int, every: list[tuple[str, ...]], rarity: numpy.ndarray) -> numpy.ndarray:
    counts = Counter(grams(words, n))
    return numpy.array([counts[gram] for gram in every]) * rarity


def plain_cider(candidates: list[list[str]], references: list[list[list[str]]]) -> list[float]:
    """CIDEr-D by dense vectors over all n-grams of the corpus."""
    scores = [0.0] * len(candidates)
    for n in (1, 2, 3, 4):
        documents = [{gram for words in texts for gram in grams(words, n)} for texts in references]
        every = sorted(set().union(*documents, *(grams(words, n) for words in candidates)))
        counts = [max(1, sum(gram in document for document in documents)) for gram in every]
        rarity = numpy.log(len(references) / numpy.array(counts))

        for image, (words, texts) in enumerate(zip(candidates, references, strict=True)):
            own = vector(words, n, every, rarity)
            for text in texts:
                other = vector(text, n, every, rarity)
                norms = numpy.linalg.norm(own) * numpy.linalg.norm(other)
                if norms:
                    far = math.exp(-((len(words) - len(text)) ** 2) / 72)
                    scores[image] += 10 / 4 / len(texts) * far * float(numpy.minimum(own, other) @ other) / norms
    return scores


def plain_swapped(candidates: list[list[str]], references: list[list[list[str]]]) -> list[float]:
    """CVIT's Flickr30k: the reference nearest to the candidate, scored with the candidate as its only reference."""
    nearest = []
    for words, texts in zip(candidates, references, strict=True):
        scores = plain_cider([words] * len(texts), [[text] for text in texts])
        nearest.append(texts[max(range(len(texts)), key=lambda place: (round(scores[place], 9), -place))])
    return plain_cider(nearest, [[words] for words in candidates])


@pytest.mark.parametrize(("name", "plain"), [("textcaps", plain_cider), ("flickr30k", plain_swapped)])
def test_captions_are_scored_as_by_dense_vectors(name: str, plain: Callable[..., list[float]]) -> None:
    scorer = registry.load("scorers", name).paper
    for corpus in range(NUM // 50):
        rng = random.Random(f"{name} {corpus}")
        references = [
            [[rng.choice(SPOKEN) for _ in range(rng.randrange(1, 14))] for _ in range(rng.choice((1, 2, 5)))]
            for _ in range(50)
        ]
        candidates = []
        for texts in references:
            words = list(rng.choice(texts))
            for _ in range(rng.randrange(4)):
                words[rng.randrange(len(words))] = rng.choice(SPOKEN)
            candidates.append(words[: rng.randrange(len(words) + 1)] if rng.random() < 0.3 else words)
        truths = [Truth(tuple(" ".join(words) for words in texts)) for texts in references]
        found = [item.main for item in scorer.score([" ".join(words) for words in candidates], truths)]
        assert found == pytest.approx(plain(candidates, references), abs=1e-9)
        assert max(found) > 1
