"""The encoder of a task's rows for a backbone: template, image tokens, begin and end token, as token ids.

A conversation template (`lilora.model.conversation`) puts a row in words. Prompt and answers are tokenised apart, so
that the boundary between what is asked and what is learned is exact. A tokenizer that gives an answer other tokens
alone than after its prompt is refused.

Special tokens are the template's alone. In a row's own words the backbone's image token has two meanings, a picture's
place and text, and is refused (as other models' picture tokens and an end token behind an answer are when the row is
read, `lilora.data.readers.row.check_words`). Every other one ("</s>", "<unk>", "<|im_end|>") is text, spelled in the
vocabulary's ordinary tokens.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from lilora.backbones import Backbone
from lilora.benchmarks import Framing
from lilora.benchmarks._instructions import template_start
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
        marks = {self.processor.image_token, named, self.tokenizer.eos_token, *self.tokenizer.all_special_tokens}
        marks |= {token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special}
        self.marks = re.compile("|".join(re.escape(mark) for mark in sorted(marks - {"", None}, key=len, reverse=True)))
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

    def prompts(
        self, instructions: list[str], sizes: Sequence[Size | None]
    ) -> tuple[list[np.ndarray], list[Span], list[Span]]:
        """Token ids of each prompt: begin token, template, image tokens where the row has a picture (of some size).

        And where in each the instruction's own tokens are, those that end within it, and of these its template's. A
        tokenizer without offsets does not say; the whole prompt counts as both then.
        """
        tokens = {size: self.family.image_text(self.processor, size) for size in {*sizes} if size is not None}
        prompts: list[np.ndarray] = []
        spans: list[Span] = []
        templates: list[Span] = []
        for start in range(0, len(instructions), ROWS_AT_ONCE):
            asked = instructions[start : start + ROWS_AT_ONCE]
            around = [
                self.template.around(None if size is None else tokens[size])
                for size in sizes[start : start + ROWS_AT_ONCE]
            ]
            texts = [f"{before}{text}{after}" for text, (before, after) in zip(asked, around, strict=True)]
            found = self.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=bool(self.tokenizer.is_fast))
            offsets = found.get("offset_mapping", [None] * len(asked))
            for ids, pairs, text, (before, after) in zip(found["input_ids"], offsets, asked, around, strict=True):
                start = len(before)
                if self.marks.search(text):
                    ids, pairs, start = self.literal(before, text, after)
                prompts.append(np.array(self.begin + ids))
                stop = start + len(text)
                spans.append(self._span(pairs, start, stop, len(ids)))
                templates.append(self._span(pairs, start + template_start(text), stop, len(ids)))
        return prompts, spans, templates

    def _span(self, offsets: Sequence[Span] | None, start: int, stop: int, num_tokens: int) -> Span:
        """The places of the tokens that end between the characters `start` and `stop`, behind the begin token."""
        shift = len(self.begin)
        if offsets is None:
            return 0, shift + num_tokens
        ends = [end for _, end in offsets]
        return shift + bisect_right(ends, start), shift + bisect_right(ends, stop)

    def answers(self, answers: list[str]) -> list[np.ndarray]:
        """Token ids of each answer and the end token."""
        before, _, after = self.answer_template.partition("{answer}")
        return [np.array([*ids, self.end]) for ids in self._worded(answers, (before.format(), after.format()))]

    def later(self, turns: Sequence[Sequence[str]]) -> list[LaterTurn]:
        """Token ids of the turns after the first: what is asked, and the answer with its end token."""
        if not turns:
            return []
        before, _, after = self.template.later.partition("{instruction}")
        asked = self._worded([asked for asked, _ in turns], (before.format(), after.format()))
        answered = self.answers([answer for _, answer in turns])
        return [(np.array(prompt), answer) for prompt, answer in zip(asked, answered, strict=True)]

    def _worded(self, texts: list[str], around: tuple[str, str]) -> list[list[int]]:
        """Token ids of each text between what the template puts around it."""
        before, after = around
        found = self._tokens([f"{before}{text}{after}" for text in texts]) if texts else []
        return [
            self.literal(before, text, after)[0] if self.marks.search(text) else ids
            for text, ids in zip(texts, found, strict=True)
        ]

    @cached_property
    def literal(self) -> Callable[[str, str, str], tuple[list[int], list[Span], int]]:
        """The reader of texts in which special tokens are text."""
        return Literal(self.tokenizer, self.marks)

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


class Literal:
    """A copy of a tokenizer that knows its special tokens by other names, so that their own names are text.

    A template is worded with the other names, a row's words are not: one pass over both gives what the tokenizer itself
    gives wherever the words hold no special token.
    """

    def __init__(self, tokenizer: Any, marks: re.Pattern[str]) -> None:
        if not tokenizer.is_fast:
            raise ValueError(
                f"a row's words hold a special token ({marks.pattern}), and this tokenizer cannot take it as text: "
                "remove it from the row, or take a checkpoint with a tokenizer.json"
            )
        import tokenizers

        self.marks = marks
        spec = json.loads(tokenizer.backend_tokenizer.to_str())
        spec |= {"padding": None, "truncation": None}
        self.names: dict[str, str] = {}
        ids: dict[str, int] = {}
        for token in spec["added_tokens"]:
            if marks.fullmatch(token["content"]):
                # Characters for private use: no text has them, and no normaliser knows them.
                self.names[token["content"]] = token["content"] = f"\ue000{len(self.names)}\ue001"
            ids[token["content"]] = token["id"]
        self.copy = tokenizers.Tokenizer.from_str(json.dumps(spec))
        #: A new name may have a new id.
        self.ids = {self.copy.token_to_id(name): number for name, number in ids.items()}
        self.special = {number for name, number in ids.items() if name in self.names.values()}

    def __call__(self, before: str, text: str, after: str) -> tuple[list[int], list[Span], int]:
        """Token ids, the characters that each is made of, and where `text` begins among the characters.

        Raises:
            ValueError: the vocabulary has a special token of `text` as an ordinary one too.
        """
        head, tail = (self.marks.sub(lambda mark: self.names[mark[0]], part) for part in (before, after))
        found = self.copy.encode(f"{head}{text}{tail}", add_special_tokens=False)
        ids = [self.ids.get(number, number) for number in found.ids]
        wanted = len(self.marks.findall(before)) + len(self.marks.findall(after))
        if sum(number in self.special for number in ids) != wanted:
            raise ValueError(f"{text!r} holds a special token that the vocabulary cannot spell: take it out of the row")
        return ids, found.offsets, len(head)
