"""Special tokens in a row's own words: text, and never a picture's place or an answer's end."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import models

from lilora.backbones import Backbone
from lilora.model.encoder import Encoder, Literal
from tests.lilora.lab import Lab
from tests.lilora.model.tiny_others import make_idefics3
from tests.lilora.tiny import QUESTIONS, QWEN

TEXTS = [
    "Why?", "", " two  spaces ", "a\nnew line", "naïve café 7.5", "图中是什么？", "<b>bold</b> < s > </ s>", "{braces}",
    *(text for pair in QUESTIONS.values() for text in pair),
]  # fmt: skip


@pytest.fixture(scope="module", name="encoder", params=["llava", "qwen2_vl", "auto"])
def _encoder(request: pytest.FixtureRequest, lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    folder = tmp_path_factory.mktemp("backbone")
    if request.param == "llava":
        return Encoder(lab.backbone)
    backbone: Backbone = Lab(folder, QWEN).backbone if request.param == "qwen2_vl" else make_idefics3(folder)
    return Encoder(backbone)


def marks(encoder: Encoder) -> list[str]:
    """The tokenizer's special tokens but for the picture's, which is refused."""
    return [mark for mark in encoder.literal.names if mark != encoder.processor.image_token]


def special(encoder: Encoder, ids: np.ndarray) -> list[int]:
    return [number for number in ids.tolist() if number in encoder.literal.special]


def test_words_without_a_special_token_have_the_tokens_of_the_stock_tokenizer(encoder: Encoder) -> None:
    picture = encoder.family.image_text(encoder.processor, (40, 30))
    for tokens in (None, picture):
        before, after = encoder.template.around(tokens)
        for text in TEXTS:
            ids, offsets, start = encoder.literal(before, text, after)
            stock = encoder.tokenizer(f"{before}{text}{after}", add_special_tokens=False, return_offsets_mapping=True)
            assert ids == stock["input_ids"]
            shift = len(before) - start
            # Behind the template's first words, whose special tokens have names of other lengths here.
            own = [(a + shift, b + shift) for a, b in offsets if start <= a and b <= start + len(text)]
            assert own == [
                (a, b) for a, b in stock["offset_mapping"] if len(before) <= a and b <= len(before) + len(text)
            ]


def test_a_special_token_in_a_question_is_text(encoder: Encoder) -> None:
    for mark in marks(encoder):
        for size in (None, (40, 30)):
            asked = [f"What does {mark} mean?", "What does it mean?"]
            (prompt, plain), spans, _ = encoder.prompts(asked, [size, size])
            assert special(encoder, prompt) == special(encoder, plain)
            start, stop = spans[0]
            assert mark in encoder.tokenizer.decode(prompt[start:stop])
            assert np.array_equal(prompt[:start], plain[: spans[1][0]]), "the words before it have their tokens"
            assert np.array_equal(prompt[stop:], plain[spans[1][1] :]), "and those behind it"


def test_a_special_token_in_an_answer_does_not_end_it(encoder: Encoder) -> None:
    for mark in marks(encoder):
        [answer, plain] = encoder.answers([f"It is {mark} or {mark}{mark}, said he", "It is red"])
        assert special(encoder, answer) == special(encoder, plain) == [encoder.end]
        assert answer[-1] == encoder.end
        assert f"{mark} or {mark}{mark}" in encoder.tokenizer.decode(answer[:-1])
        [(asked, said)] = encoder.later([[f"And {mark}?", f"No {mark}!"]])
        [(ordinary, _)] = encoder.later([["And it?", "No!"]])
        assert special(encoder, asked) == special(encoder, ordinary)
        assert special(encoder, said) == [encoder.end]


def test_rows_beside_one_with_a_special_token_keep_their_tokens(encoder: Encoder) -> None:
    alone, *_ = encoder.prompts(TEXTS, [None] * len(TEXTS))
    together, *_ = encoder.prompts([*TEXTS, f"Why {marks(encoder)[0]}?"], [None] * (len(TEXTS) + 1))
    assert all(np.array_equal(one, other) for one, other in zip(alone, together[:-1], strict=True))


def test_the_backbones_image_token_is_refused_with_the_rows_name(encoder: Encoder) -> None:
    with pytest.raises(ValueError, match="row 'Birds-train-7' says .* take it out"):
        encoder.check("Birds-train-7", f"What is {encoder.processor.image_token}?")


def test_a_token_that_the_vocabulary_cannot_spell_is_refused(lab: Lab) -> None:
    encoder = Encoder(lab.backbone)
    literal = encoder.literal
    mark = marks(encoder)[0]
    [number] = [number for name, number in encoder.tokenizer.get_vocab().items() if name == mark]
    literal.copy.model = models.WordLevel({mark: number, "?": number + 1}, unk_token="?")
    literal.copy.pre_tokenizer, literal.copy.normalizer = None, None
    with pytest.raises(ValueError, match="take it out of the row"):
        literal("", mark, "")


def test_a_tokenizer_that_cannot_tell_text_from_tokens_is_refused(lab: Lab) -> None:
    class Slow:
        is_fast = False

    with pytest.raises(ValueError, match=r"remove it from the row, or take a checkpoint with a tokenizer\.json"):
        Literal(Slow(), Encoder(lab.backbone).marks)
