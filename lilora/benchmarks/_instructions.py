"""The settings of instructions, and the published templates that go by task: CoIN's, and those of Places365.

CVIT's (SMoLoRA; used by LiLoRA, Table 1) go by kind of task: `lilora.benchmarks._kinds`. "single": every sample of a
task carries the same instruction. "five": one of five, fixed per sample. CoIN's "original" repeats one among tasks, its
"diverse" has one a task, its "10type" about ten. Published files have them in their rows: there they serve to find a
folder that is not what its name says.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from lilora.benchmarks._kinds import PHRASE, all_templates

INSTRUCTION_SETTINGS = ("single", "five", "original", "diverse", "10type")

#: Places365 has templates of its own in the SMoLoRA release.
PLACES_SINGLE = f"What is the background of the image?\n{PHRASE}"
PLACES_FIVE = (
    f"What is the background of the image?\n{PHRASE}",
    "What is the background depicted in the image?\nProvide your answer using a word or brief phrase.",
    "Which type of background does the image show?\nGive your answer in one word or a short phrase.",
    "What category best describes the background in the image?\nAnswer using a brief phrase or single word.",
    "What is the primary background visible in the image?\nAnswer briefly with a word or a short phrase.",
)

_BOX = "Please provide the bounding box coordinate of the region this sentence describes"

#: ProgLoRA, Table 14: task -> setting -> templates, without the final period. The printed table runs one cell of three
#: 10type columns into the next; they stand where they belong. OCR-VQA's repeats ScienceQA's, so it is left out.
COIN: dict[str, dict[str, tuple[str, ...]]] = {
    "ScienceQA": {
        "original": ("Answer with the option's letter from the given choices directly",),
        "diverse": ("Answer with the option's letter from the given choices directly",),
        "10type": (
            "Answer with the option's letter from the given choices directly",
            "Select the correct answer from the given choices and respond with the letter of the chosen option",
            "Determine the correct option from the provided choices and reply with its corresponding letter",
            "Pick the correct answer from the listed options and provide the letter of the selected option",
            "Identify the correct choice from the options below and respond with the letter of the correct option",
            "From the given choices, choose the correct answer and respond with the letter of that choice",
            "Choose the right answer from the options and respond with its letter",
            "Select the correct answer from the provided options and reply with the letter associated with it",
            "From the given choices, select the correct answer and reply with the letter of the chosen option",
            "Identify the correct option from the choices provided and respond with the letter of the correct option",
            "From the given choices, pick the correct answer and respond by indicating the letter of the correct "
            "option",
        ),
    },
    "TextVQA": {
        "original": (PHRASE,),
        "diverse": ("Capture the essence of your response in a single word or a concise phrase",),
        "10type": (
            "Answer the question with just one word or a brief phrase",
            "Use one word or a concise phrase to respond to the question",
            "Answer using only one word or a short, descriptive phrase",
            "Provide your answer in the form of a single word or a brief phrase",
            "Use a single word or a short phrase to respond to the question",
            "Summarize your response in one word or a concise phrase",
            "Respond to the question using a single word or a brief phrase",
            "Provide your answer in one word or a short, descriptive phrase",
            "Answer the question with a single word or a brief, descriptive phrase",
            "Capture the essence of your response in one word or a short phrase",
            "Capture the essence of your response in a single word or a concise phrase",
        ),
    },
    "ImageNet": {
        "original": (PHRASE,),
        "diverse": ("Express your answer in a single word or a short, descriptive phrase",),
        "10type": (
            "Answer the question with one word or a short phrase",
            "Express your answer in a single word or a short, descriptive phrase",
            "Provide your answer using a single word or a brief phrase",
            "Describe the content of the image using one word or a concise phrase",
            "Respond to the question with a single word or a short, descriptive phrase",
            "Classify the image content using only one word or a brief phrase",
            "Give your answer in the form of a single word or a concise phrase",
            "Use a single word or a short phrase to categorize the image content",
            "Express your answer with one word or a short, descriptive phrase",
            "Identify the type of content in the image using one word or a concise phrase",
            "Summarize your response in a single word or a brief phrase",
            "Use one word or a short phrase to classify the content of the image",
        ),
    },
    "GQA": {
        "original": (PHRASE,),
        "diverse": ("Respond to the question briefly, using only one word or a phrase",),
        "10type": (
            "Respond to the question with a single word or a short phrase",
            "Respond to the question using only one word or a concise phrase",
            "Answer the question with a single word or a brief phrase",
            "Respond with one word or a short phrase",
            "Provide your answer in the form of a single word or a concise phrase",
            "Respond to the question with just one word or a brief phrase",
            "Answer the question using a single word or a concise phrase",
            "Provide your response using only one word or a short phrase",
            "Respond to the question with a single word or a brief phrase",
            "Respond to the question using just one word or a concise phrase",
        ),
    },
    "VizWiz": {
        "original": (PHRASE,),
        "diverse": ("Provide a succinct response with a single word or phrase",),
        "10type": (
            "Answer the question using only one word or a concise phrase",
            "Respond to the question using only one word or a concise phrase",
            "Respond to the question with a single word or a brief phrase",
            "Provide your answer using just one word or a short phrase",
            "Respond with one word or a concise phrase",
            "Answer the question with just one word or a brief phrase",
            "Use a single word or a short phrase to answer the question",
            "Provide your answer in the form of one word or a brief phrase",
            "Reply to the question using one word or a concise phrase",
            "Answer with a single word or a short phrase",
            "Use one word or a brief phrase to answer the question",
        ),
    },
    "Grounding": {
        "original": (_BOX,),
        "diverse": (_BOX,),
        "10type": (
            "Identify and provide the bounding box coordinates that match the description given in this sentence",
            "Extract and provide the bounding box coordinates based on the region described in the sentence",
            "Please provide the bounding box coordinate of the region mentioned in the sentence",
            "Find and provide the bounding box coordinates for the region mentioned in the sentence",
            "Provide the coordinates of the bounding box that correspond to the region described in the sentence",
            "Give the bounding box coordinates as described in the sentence",
            "Determine and provide the bounding box coordinates based on the description in the sentence",
            "Identify and provide the coordinates of the bounding box described in the sentence",
            "Provide the coordinates for the bounding box described in the sentence",
            "Extract and provide the coordinates for the bounding box described in the sentence",
            "Identify and give the coordinates of the bounding box as described by the sentence",
        ),
    },
    "VQAv2": {
        "original": (PHRASE,),
        "diverse": (PHRASE,),
        "10type": (
            PHRASE,
            "Answer the question with a single word or a brief phrase",
            "Use one word or a short phrase to respond to the question",
            "Answer the question using just one word or a concise phrase",
            "Provide your answer to the question using only one word or a brief phrase",
            "Respond to the question with a single word or a short phrase",
            "Use a single word or phrase to answer the question",
            "Provide an answer using only one word or a brief phrase",
            "Answer the question succinctly with one word or a brief phrase",
            "Answer the question with just one word or a short phrase",
            "Respond to the question using a single word or a concise phrase",
        ),
    },
    "OCRVQA": {
        "original": (PHRASE,),
        "diverse": ("Condense your answer for each question into a single word or concise phrase",),
    },
}


@cache
def _known() -> tuple[str, ...]:
    """Every template that is published, without its final period, the longest first."""
    of_coin = [text for settings in COIN.values() for texts in settings.values() for text in texts]
    found = {text.rstrip(".") for text in (*all_templates(), PLACES_SINGLE, *PLACES_FIVE, *of_coin)}
    return tuple(sorted(found, key=lambda text: (-len(text), text)))


def template_start(instruction: str) -> int:
    """Where in an instruction its template begins: the longest published one that it ends with, else its last line."""
    whole = instruction.rstrip().rstrip(".")
    for template in _known():
        if whole.endswith(template):
            return len(whole) - len(template)
    return whole.rfind("\n") + 1


def told(task: str, instruction: str) -> str:
    """The instruction behind its task's name: what a model that is told the task in words reads. Our choice of words.

    An empty instruction stays a name alone.
    """
    return f"Task: {task}.\n{instruction}".rstrip("\n")


def ends_with_template(text: str, templates: Sequence[str]) -> bool:
    """Whether `text` ends with one of `templates`; a final period and outer white space do not matter."""
    whole = text.rstrip().rstrip(".")
    return any(whole.endswith(template.rstrip(".")) for template in templates)
