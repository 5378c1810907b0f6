"""Conversation templates: how a question, its picture and its answer are worded for a backbone.

A template is a value of a few strings. Those of LLaVA and Qwen2-VL are here by name; "chat" reads a template off the
chat template that a model's own processor has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Template:
    """How a row is worded.

    Attributes:
        prompt: up to where the answer begins; `{image}` stands for the picture, `{instruction}` for what is asked.
        answer: what follows, without its end token.
        image: how the picture's tokens are framed.
        later: what is asked after an answer's end token, in rows of several turns.
        end: the token that ends an answer; "": the tokenizer's own end token.
        text_prompt: the prompt of rows without a picture; "": `prompt` without it.
    """

    prompt: str
    answer: str = " {answer}"
    image: str = "{tokens}\n"
    later: str = "USER: {instruction} ASSISTANT:"
    end: str = ""
    text_prompt: str = ""

    def around(self, tokens: str | None) -> tuple[str, str]:
        """What stands before and after the instruction; `tokens` are the picture's, None for a row without one."""
        whole = self.prompt if tokens is not None else self.text_prompt or self.prompt
        image = "" if tokens is None else self.image.format(tokens=tokens)
        before, _, after = whole.partition("{instruction}")
        return before.format(image=image), after.format(image=image)


_QWEN_TURN = "<|im_start|>user\n{image}{instruction}<|im_end|>\n<|im_start|>assistant\n"
_QWEN = {
    "answer": "{answer}",
    "image": "<|vision_start|>{tokens}<|vision_end|>",
    "later": "\n" + _QWEN_TURN.replace("{image}", ""),
    "end": "<|im_end|>",
}
TEMPLATES = {
    "llava_v1": Template(
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. USER: {image}{instruction} ASSISTANT:"
    ),
    "llava_v1_bare": Template("USER: {image}{instruction} ASSISTANT:"),
    "qwen2_vl": Template(f"<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{_QWEN_TURN}", **_QWEN),
    "qwen2_vl_bare": Template(_QWEN_TURN, **_QWEN),
}
#: The name that stands for the processor's own chat template.
CHAT = "chat"
_MARKS = ("first-question", "first-answer", "second-question")


def template_of(name: str, processor: Any) -> Template:
    """The template called `name`; for "chat", the one that `processor` has.

    Raises:
        ValueError: there is no such template, or the processor's is of another kind.
    """
    if name == CHAT:
        return chat_template(processor)
    if name not in TEMPLATES:
        raise ValueError(f"no template '{name}'; lilora.model.conversation has: {', '.join(TEMPLATES)}, {CHAT}")
    return TEMPLATES[name]


def chat_template(processor: Any) -> Template:
    """The processor's own chat template, read off conversations with marks in place of words.

    Raises:
        ValueError: it has no chat template; or one in which an answer's end is no special token, or a prompt is not the
            beginning of the conversation that goes on from it.
    """
    first, answer, second = _MARKS
    prompt, text_prompt = _said(processor, (first,), True), _said(processor, (first,), False)
    whole = _said(processor, _MARKS, False)
    token = processor.image_token
    joined, _, rest = whole.partition(answer)
    ends = [(rest.find(end), end) for end in processor.tokenizer.all_special_tokens if end in rest.partition(second)[0]]
    if not whole.startswith(text_prompt) or prompt.count(token) != 1 or not ends:
        raise ValueError(
            "the processor's chat template cannot be read as prompt, answer and end token: add a template to "
            "lilora.model.conversation and name it in Backbone.template"
        )
    place, end = min(ends)
    return Template(
        prompt=_slots(prompt).replace(token, "{image}"),
        answer=_slots(joined[len(text_prompt) :]) + "{answer}",
        image="{tokens}",
        later=_slots(rest[place + len(end) :]),
        end=end,
        text_prompt=_slots(text_prompt),
    )


def _said(processor: Any, turns: tuple[str, ...], image: bool) -> str:
    messages = [
        {
            "role": ("user", "assistant")[place % 2],
            "content": [*([{"type": "image"}] if image and not place else []), {"type": "text", "text": text}],
        }
        for place, text in enumerate(turns)
    ]
    try:
        found: str = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    except ValueError as error:
        raise ValueError(f"the processor has no chat template; name one of: {', '.join(TEMPLATES)}") from error
    return found


def _slots(text: str) -> str:
    """`text` as a format string: a question's mark becomes the place of the instruction, braces stay braces."""
    text = text.replace("{", "{{").replace("}", "}}")
    return text.replace(_MARKS[0], "{instruction}").replace(_MARKS[2], "{instruction}")
