"""The kinds of task: in which words one is asked, which form its answer should have, and how long its texts are.

Everything that depends on a task's kind stands in one value of `KINDS`, so a new kind is one more value here. Templates
are those of the CVIT benchmark (SMoLoRA, repository Minato-Zackie/SMoLoRA; used by LiLoRA, Table 1). CoIN's go by task:
`lilora.benchmarks._instructions`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lilora.measures import form

PHRASE = "Answer the question using a single word or phrase."
_OPTION = "Answer with the option's letter from the given choices directly."
_SCENE = "What is happening in the presented picture?\nPlease describe it in one complete sentence."


@dataclass(frozen=True)
class Form:
    """A test of an answer's form; `version` is raised when its results change: then its tasks are scored again."""

    passes: Callable[[str, Sequence[str]], bool]
    version: int = 1


@dataclass(frozen=True)
class TextLengths:
    """Tokens of a row's texts where no data are there to measure: assumed, not measured.

    A template of 45 tokens and a question of 20; ScienceQA's questions carry a context.

    Attributes:
        prompt: of a prompt, its template included.
        answer: of an answer.
        longest: of the longest row, prompt and answer.
    """

    prompt: int
    answer: int
    longest: int


@dataclass(frozen=True)
class Kind:
    """A kind of task.

    Attributes:
        name: what `Task.kind` says; part of digests.
        form: ours, used by every score but a paper's.
        paper_form: that of the CVIT release, to stand beside a paper's MIF (LiLoRA, Eq. 11).
        lengths: see `TextLengths`.
        single: the template that every sample carries under "single" instructions; "" for none.
        five: under "five", one of these, fixed per sample; () for none.
    """

    name: str
    form: Form
    paper_form: Form
    lengths: TextLengths
    single: str = ""
    five: tuple[str, ...] = ()

    def form_of(self, version: str) -> Form:
        """The test of form that a scorer asks for (`lilora.scorers.Scorer.form`): "" for ours, "paper"."""
        return self.paper_form if version == "paper" else self.form

    def follows(self, prediction: str, references: Sequence[str], version: str = "") -> bool:
        """Whether `prediction`, outer white space aside, has the form that a task of this kind asks for."""
        return self.form_of(version).passes(prediction.strip(), references)


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "option",
            form=Form(form.is_letter),
            paper_form=Form(form.is_letter_in_any_case, version=2),
            lengths=TextLengths(170, 3, 700),
            single=_OPTION,
            five=(
                _OPTION,
                "Select the correct answer by choosing the corresponding letter from the options provided.",
                "Select the correct letter from the given options to answer the question.",
                "Identify the correct answer by choosing the appropriate letter from the choices.",
                "Pick the correct answer by selecting the letter associated with the correct choice.",
            ),
        ),
        Kind(
            "vqa",
            form=Form(form.is_short),
            paper_form=Form(form.is_short_in_any_case),
            lengths=TextLengths(70, 4, 160),
            single=PHRASE,
            five=(
                "Answer the question with a single word or a brief, descriptive phrase.",
                "Use a single word or a short phrase to respond to the question.",
                "Use one word or a concise phrase to respond to the question.",
                "Answer the question with just one word or a brief phrase.",
                "Answer using only one word or a short, descriptive phrase.",
            ),
        ),
        Kind(
            "caption",
            form=Form(form.is_sentence),
            paper_form=Form(form.is_sentence_in_any_case),
            lengths=TextLengths(75, 18, 160),
            single=_SCENE,
            five=(
                _SCENE,
                "What does the image display clearly and succinctly?\nProvide a full sentence explaining it.",
                "What is depicted in the displayed picture?\nSummarize it using a single, concise sentence.",
                "How would you interpret the scene in the picture?\nExpress your answer in one informative sentence.",
                "What is the captured scene about?\nExplain it clearly in one simple sentence.",
            ),
        ),
        Kind(
            "classification",
            form=Form(form.is_short),
            paper_form=Form(form.is_short_in_any_case),
            lengths=TextLengths(75, 5, 130),
            single=f"What is the object in the image?\n{PHRASE}",
            five=(
                "What is the main object present in the image?\nProvide your answer using a word or brief phrase.",
                "Which specific object does the image depict?\nGive your answer in one word or a short phrase.",
                "What category does the object in the image belong to?\nAnswer using a single word or phrase.",
                "What is the primary object visible in the image?\nAnswer using a brief phrase or single word.",
                "What is the object in the image?\nAnswer briefly with a word or a short phrase.",
            ),
        ),
        # CVIT has no grounding, so no template; no paper says what form a box should have, so there is one test.
        Kind(
            "grounding",
            form=Form(form.is_box),
            paper_form=Form(form.is_box),
            lengths=TextLengths(80, 24, 160),
        ),
    )
}


def kind_named(name: str) -> Kind:
    """The kind called `name`.

    Raises:
        ValueError: there is none; the message lists the choices.
    """
    if name not in KINDS:
        raise ValueError(f"no kind of task {name!r}; there are: {', '.join(sorted(KINDS))}")
    return KINDS[name]


def instruction(question: str, kind: str, setting: str, index: int) -> str:
    """The text a model is asked: `question` (may be empty) and the template of `kind`.

    Args:
        setting: "single" or "five".
        index: the sample's number; with "five" it fixes which template the sample carries.

    Raises:
        ValueError: there is no such kind, or it has no template.
    """
    own = kind_named(kind)
    if not own.single or not own.five:
        raise ValueError(f"tasks of kind '{kind}' have no template: give the kind some in lilora/benchmarks/_kinds.py")
    template = own.single if setting == "single" else own.five[index % len(own.five)]
    return f"{question}\n{template}" if question else template


def all_templates() -> list[str]:
    """Every template of both settings, for building a vocabulary: first those of "single"."""
    single = [kind.single for kind in KINDS.values() if kind.single]
    return single + [text for kind in KINDS.values() for text in kind.five]
