"""The encoder of a task's rows for a backbone: template, image tokens, begin and end token, as token ids.

A conversation template (`lilora.model.conversation`) puts a row in words. Prompt and answers are tokenised apart, so
that the boundary between what is asked and what is learned is exact. A row whose own words hold the image token is
refused, and so is a tokenizer that gives an answer other tokens alone than after its prompt.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

from lilora.backbones import Backbone
from lilora.benchmarks import Framing
from lilora.model.conversation import template_of
from lilora.model.families import FAMILIES, Size
from lilora.model.pictures import Picture, fill_colour

#: Token ids of what is asked further on in a row, and of the answer to it.
LaterTurn = tuple[np.ndarray, np.ndarray]
#: From one place on, up to another.
Span = tuple[int, int]
#: Rows that are tokenised together: their tokens' offsets are in memory at once.
ROWS_AT_ONCE = 1024


class Encoder:
    """Puts rows in a backbone's words: template, image tokens, begin and end token."""

    def __init__(self, backbone: Backbone, framing: Framing = "crop") -> None:
        self.processor = backbone.load_processor()
        self.template = template_of(backbone.template, self.processor)
        self.family = FAMILIES[backbone.family]
        self.tokenizer = self.processor.tokenizer
        self.fill = fill_colour(self.processor) if framing == "pad" else None
        named, pad = self.template.end, self.tokenizer.pad_token_id
        self.end: int = self.tokenizer.convert_tokens_to_ids(named) if named else self.tokenizer.eos_token_id
        if named and self.end in (None, self.tokenizer.unk_token_id):
            raise ValueError(
                f"template '{backbone.template}' ends an answer with '{named}', which the tokenizer of "
                f"'{backbone.name}' does not know: name the model's own template"
            )
        self.pad: int = self.end if pad is None else pad
        begin = self.tokenizer.bos_token_id
        written = begin is not None and self.template.prompt.startswith(self.tokenizer.bos_token)
        self.begin: list[int] = [] if begin is None or written else [begin]
        self.answer_template = self._joined_answer()

    def sizes(self, pictures: dict[str, Picture]) -> dict[str, Size]:
        """Width and height of each picture as the model's image processor gets it; not looked at for LLaVA."""
        if not self.family.by_size:
            return dict.fromkeys(pictures, (0, 0))
        found = {name: picture.size() for name, picture in pictures.items()}
        return {name: (max(size), max(size)) for name, size in found.items()} if self.fill else found

    def check(self, name: str, said: str) -> None:
        """Refuse a row whose words hold the image token: the model would look for a picture in its place.

        Raises:
            ValueError: they do; the message names the row.
        """
        if self.processor.image_token in said:
            raise ValueError(
                f"row '{name}' says '{self.processor.image_token}', which stands for a picture and is put there by the "
                "template: take it out of the row's text"
            )

    def prompts(self, instructions: list[str], sizes: Sequence[Size | None]) -> tuple[list[np.ndarray], list[Span]]:
        """Token ids of each prompt: begin token, template, image tokens where the row has a picture (of some size).

        And where in each the instruction's own tokens are: those that end within it. A tokenizer without offsets does
        not say; the whole prompt counts as the instruction then.
        """
        tokens = {size: self.family.image_text(self.processor, size) for size in {*sizes} if size is not None}
        prompts: list[np.ndarray] = []
        spans: list[Span] = []
        for start in range(0, len(instructions), ROWS_AT_ONCE):
            asked = instructions[start : start + ROWS_AT_ONCE]
            around = [
                self.template.around(None if size is None else tokens[size])
                for size in sizes[start : start + ROWS_AT_ONCE]
            ]
            texts = [f"{before}{text}{after}" for text, (before, after) in zip(asked, around, strict=True)]
            found = self.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=bool(self.tokenizer.is_fast))
            prompts += [np.array(self.begin + ids) for ids in found["input_ids"]]
            offsets = found.get("offset_mapping", [None] * len(asked))
            spans += [
                self._span(pairs, len(before), len(before) + len(text), len(ids))
                for pairs, (before, _), text, ids in zip(offsets, around, asked, found["input_ids"], strict=True)
            ]
        return prompts, spans

    def _span(self, offsets: Sequence[Span] | None, start: int, stop: int, num_tokens: int) -> Span:
        """The places of the tokens that end between the characters `start` and `stop`, behind the begin token."""
        shift = len(self.begin)
        if offsets is None:
            return 0, shift + num_tokens
        ends = [end for _, end in offsets]
        return shift + bisect_right(ends, start), shift + bisect_right(ends, stop)

    def answers(self, answers: list[str]) -> list[np.ndarray]:
        """Token ids of each answer and the end token."""
        texts = [self.answer_template.format(answer=answer) for answer in answers]
        return [np.array([*ids, self.end]) for ids in self._tokens(texts)] if texts else []

    def later(self, turns: Sequence[Sequence[str]]) -> list[LaterTurn]:
        """Token ids of the turns after the first: what is asked, and the answer with its end token."""
        if not turns:
            return []
        asked = self._tokens([self.template.later.format(instruction=asked) for asked, _ in turns])
        answered = self.answers([answer for _, answer in turns])
        return [(np.array(prompt), answer) for prompt, answer in zip(asked, answered, strict=True)]

    def _tokens(self, texts: list[str]) -> list[list[int]]:
        found: list[list[int]] = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return found

    def _joined_answer(self) -> str:
        """The template of an answer that, tokenised alone, gives what it gives after a prompt.

        Byte-level tokenisers need the space before the answer; SentencePiece ones put it there by themselves.
        """
        head = self.template.prompt.partition("{instruction}")[2].lstrip()
        tail = self.template.answer.format(answer="yes")
        [whole] = self._tokens([head + tail])
        [before] = self._tokens([head])
        for answer in (self.template.answer, self.template.answer.lstrip()):
            if self._tokens([answer.format(answer="yes")])[0] == whole[len(before) :]:
                return answer
        raise ValueError(
            "this tokenizer gives an answer other tokens after a prompt than alone; add a template to "
            "lilora.model.conversation whose prompt ends where a token ends"
        )
