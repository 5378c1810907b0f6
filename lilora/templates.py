"""Instruction templates of the CVIT benchmark (SMoLoRA; used by LiLoRA, Table 1), by kind of task.

"single": every sample of a task carries the same instruction. "five": one of five, fixed per sample.
"""

from __future__ import annotations

INSTRUCTION_SETTINGS = ("single", "five")

_PHRASE = "Answer the question using a single word or phrase."

SINGLE: dict[str, str] = {
    "option": "Answer with the option's letter from the given choices directly.",
    "vqa": _PHRASE,
    "caption": "What is happening in the presented picture?\nPlease describe it in one complete sentence.",
    "classification": f"What is the object in the image?\n{_PHRASE}",
}

FIVE: dict[str, tuple[str, ...]] = {
    "option": (
        "Answer with the option's letter from the given choices directly.",
        "Select the correct answer by choosing the corresponding letter from the options provided.",
        "Select the correct letter from the given options to answer the question.",
        "Identify the correct answer by choosing the appropriate letter from the choices.",
        "Pick the correct answer by selecting the letter associated with the correct choice.",
    ),
    "vqa": (
        "Answer the question with a single word or a brief, descriptive phrase.",
        "Use a single word or a short phrase to respond to the question.",
        "Use one word or a concise phrase to respond to the question.",
        "Answer the question with just one word or a brief phrase.",
        "Answer using only one word or a short, descriptive phrase.",
    ),
    "caption": (
        "What is happening in the presented picture?\nPlease describe it in one complete sentence.",
        "What does the image display clearly and succinctly?\nProvide a full sentence explaining it.",
        "What is depicted in the displayed picture?\nSummarize it using a single, concise sentence.",
        "How would you interpret the scene in the picture?\nExpress your answer in one informative sentence.",
        "What is the captured scene about?\nExplain it clearly in one simple sentence.",
    ),
    "classification": (
        "What is the main object present in the image?\nProvide your answer using a word or brief phrase.",
        "Which specific object does the image depict?\nGive your answer in one word or a short phrase.",
        "What category does the object in the image belong to?\nAnswer using a single word or phrase.",
        "What is the primary object visible in the image?\nAnswer using a brief phrase or single word.",
        "What is the object in the image?\nAnswer briefly with a word or a short phrase.",
    ),
}


def instruction(question: str, kind: str, setting: str, index: int) -> str:
    """The text a model is asked: `question` (may be empty) and the template of `kind`.

    Args:
        index: the sample's number; with "five" it fixes which template the sample carries.
    """
    template = SINGLE[kind] if setting == "single" else FIVE[kind][index % 5]
    return f"{question}\n{template}" if question else template


def all_templates() -> list[str]:
    """Every template of both settings, for building a vocabulary."""
    return [*SINGLE.values(), *(text for texts in FIVE.values() for text in texts)]
